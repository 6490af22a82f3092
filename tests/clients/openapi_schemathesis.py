"""Requests made from the API's description against a running Candor, and its answers held against it: openapi_schemathesis.py BASE_URL PHOTO.jpg"""

import os
import subprocess
import sys
from pathlib import Path

base_url, photo = sys.argv[1:]
here = Path(__file__).parent
environment = {**os.environ, "PHOTO": str(Path(photo).resolve()), "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(here)}
program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(here / "schemathesis.toml")]
document = base_url.removesuffix("/v1") + "/openapi.json"
done = subprocess.run([*program, "run", document, "--no-color"], env=environment, cwd=here, timeout=170)
if done.returncode == 0:
    print("OK")
sys.exit(done.returncode)
