"""Start nemo-gym's own counter server on a port: python tests/gym_server.py FOLDER PORT.

FOLDER is where `scripts/setup.sh evals` puts the package. Its profilers and its tracker are not installed
and not used.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from unittest.mock import MagicMock

UNUSED = ("wandb", "wandb.util", "yappi", "gprof2dot", "pydot")


def main(folder: Path, port: int) -> None:
    """Serve until killed."""
    sys.path.insert(0, str(folder))  # its antlr4 is another than ours
    missing = [name for name in UNUSED if importlib.util.find_spec(name.partition(".")[0]) is None]
    sys.modules.update({name: MagicMock() for name in missing})
    import uvicorn
    from nemo_gym.server_utils import ServerClient

    path = folder / "resources_servers/example_session_state_mgmt/app.py"
    spec = importlib.util.spec_from_file_location("counter", path)
    assert spec is not None and spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    config = app.StatefulCounterResourcesServerConfig(
        host="127.0.0.1", port=port, entrypoint="", name="counter"
    )
    server = app.StatefulCounterResourcesServer(
        config=config, server_client=MagicMock(spec=ServerClient)
    )
    uvicorn.run(server.setup_webserver(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
