"""An MCP server with a state: a shelf of things. Used by recipes/mcp-tools.yaml; start it with mcp installed."""

from mcp.server import MCPServer

server = MCPServer("shelf")
shelf: list[str] = []
wanted: list[str] = []


@server.tool()
def setup(things: list[str], goal: list[str]) -> str:
    """Put things on the shelf, and note which are to be there in the end."""
    shelf[:], wanted[:] = things, goal
    return "ok"


@server.tool()
def add(thing: str) -> str:
    """Put one thing on the shelf."""
    if thing in shelf:
        raise ValueError(f"{thing} is there already")
    shelf.append(thing)
    return f"{len(shelf)} things"


@server.tool()
def judge() -> str:
    """1 where the shelf is as it should be."""
    return str(float(sorted(shelf) == sorted(wanted)))


if __name__ == "__main__":
    server.run()
