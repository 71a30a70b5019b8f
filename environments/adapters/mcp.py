"""Tools of an MCP server as an environment: `type: "environments.adapters.mcp:McpServer"`.

Every episode starts a server of its own (`command`, over stdio), or opens a session with a running one
(`url`, streamable HTTP). What judges is a tool of the server that the model is not offered (`judge`), or
`verify` of a subclass of yours.
"""

import asyncio
import sys
from typing import Any

from mcp import Client, StdioServerParameters

# Dies with the process that plays the episode, whatever happens to that.
_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"
)


class McpServer:
    """A class as environments.custom plays them. command: what starts a server, e.g. [python, notes.py]. env:
    environment variables that it gets beside PATH and HOME. judge: a tool without arguments that returns
    the episode's value, a number."""

    command: list[str] = []
    url: str = ""
    judge: str = ""

    def __init__(
        self,
        *,
        command: list[str] | None = None,
        url: str = "",
        env: dict[str, str] | None = None,
        judge: str = "",
    ) -> None:
        self.command, self.url = command or self.command, url or self.url
        self.judge, self.env = judge or self.judge, env
        self._client: Any = None
        self._holder: asyncio.Task[None] | None = None
        if bool(self.command) == bool(self.url):
            raise ValueError("give a command that starts the server, or its url")

    async def documents(self) -> list[dict[str, Any]]:
        """Every tool of the server but the judge."""
        await self._open()
        found, cursor = list[Any](), None
        while True:
            page = await self._client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        return [
            {
                "name": tool.name,
                "description": tool.description or tool.name,
                "parameters": tool.input_schema,
            }
            for tool in found
            if tool.name not in (self.judge, "setup")
        ]

    async def reset(self, task: dict[str, Any]) -> None:
        """Start the server. task: its `setup`, if it has one, is the arguments of a tool of that name,
        which brings the world to its start and is never on offer."""
        self.task = task
        await self._open()
        if "setup" in task:
            await self.call("setup", task["setup"])

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """What the tool answers; an error of the tool's own is told to the model."""
        result = await self._client.call_tool(name, arguments)
        text = "\n".join(getattr(part, "text", f"[{part.type}]") for part in result.content)
        if result.is_error:
            raise ValueError(text or "the tool failed")
        if not text and result.structured_content is not None:
            return result.structured_content
        return text

    async def verify(self) -> float:
        """The judge's number."""
        if not self.judge:
            raise RuntimeError("nothing judges: name a tool as `judge`, or write verify(self)")
        return float(await self.call(self.judge, {}))

    async def _open(self) -> None:
        """Connect, and stay so for as long as this process lives."""
        if self._client is not None:
            return
        connected: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.ensure_future(self._hold(connected))
        self._client = await connected

    async def _hold(self, connected: "asyncio.Future[Any]") -> None:
        # One task enters the connection and would leave it: the library binds it to that.
        target: Any = self.url
        if self.command:
            target = StdioServerParameters(
                command=sys.executable, args=["-c", _WITH_US, *self.command], env=self.env
            )
        try:
            async with Client(target) as client:
                connected.set_result(client)
                await asyncio.Event().wait()
        except BaseException as error:
            if connected.done():
                raise
            connected.set_exception(RuntimeError(f"the server did not start: {error}"))
