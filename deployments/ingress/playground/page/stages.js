// The live strip of stages, read from the application's own /metrics.

const STAGES = ["Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model"];
const PERIOD_MS = 2000;

const REPLICAS = "ray_serve_deployment_replica_healthy";
const WANTED = "ray_serve_autoscaling_target_replicas"; // said of each stage, where Ray has not said who is healthy
const RUNNING = "ray_serve_num_ongoing_requests_at_replicas";
const QUEUED = "ray_serve_deployment_queued_queries";
const REFUSED = "ray_sluice_refused_total";

// Where /metrics is kept inside, as behind a public address, there is nothing to watch: `strip` is hidden.
export function watchStages(strip, body, refused) {
  const show = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch("/metrics");
        strip.hidden = !answer.ok;
        if (answer.ok) render(body, refused, parse(await answer.text()));
      } catch {
        refused.textContent = "the server does not answer";
      }
    }
    setTimeout(show, PERIOD_MS);
  };
  show();
}

// Prometheus text to [{name, labels, value}].
function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^(\w+)\{(.*)\} (\S+)$/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...match[2].matchAll(/(\w+)="([^"]*)"/g)].map(([, key, value]) => [key, value]));
    samples.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return samples;
}

// Of several models each has a preprocessor and a model of its own: `Model:NAME`.
function deployments(samples) {
  const named = [...new Set(samples.map((s) => s.labels.deployment ?? ""))].sort();
  return STAGES.flatMap((stage) => {
    const own = named.filter((name) => name.startsWith(`${stage}:`));
    return own.length ? own : [stage];
  });
}

function render(body, refused, samples) {
  const sum = (name, stage) => samples
    .filter((s) => s.name === name && (!stage || s.labels.deployment === stage))
    .reduce((total, s) => total + s.value, 0);
  body.replaceChildren(...deployments(samples).map((stage) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = stage;
    row.append(head);
    const known = samples.some((s) => s.name === REPLICAS && s.labels.deployment === stage);
    for (const name of [known ? REPLICAS : WANTED, RUNNING, QUEUED]) row.insertCell().textContent = sum(name, stage);
    return row;
  }));
  refused.textContent = `requests refused since the start: ${sum(REFUSED)}`;
}
