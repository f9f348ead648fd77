import subprocess
import sys


def test_who_builds_the_application_waits_for_no_model_library():
    script = (
        "import sys; import graph; from deployments.config import AppConfig; graph.build(AppConfig()); "
        "assert not {'torch', 'transformers', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
