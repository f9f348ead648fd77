"""How the demo model learns: pools of synthetic media, one module a stage, `deployments.demo.train` runs them all."""
