import contextlib
import http.server
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest

from mlp_core.fetch import CHUNK, Unavailable, answering, download, unpacked
from mlp_core.idx import DataError

CONTENT = bytes(i * i % 251 for i in range(300_000))


@dataclass
class Mirror:
    """A mirror on this machine that can break off, lie, or ignore ranges; it keeps a log."""

    content: bytes = CONTENT
    breaks_after: int | None = None
    knows_ranges: bool = True
    status: int = 200
    log: list = field(default_factory=list)
    url: str = ""


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:

        def start(**how):
            mirror = Mirror(**how)

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_HEAD(self):
                    self.send_response(mirror.status)
                    self.end_headers()

                def do_GET(self):
                    asked = self.headers["Range"] if mirror.knows_ranges else None
                    mirror.log.append(self.headers["Range"])
                    begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
                    body = mirror.content[begin:]
                    status = mirror.status
                    if status == 200 and asked:
                        status = 206 if body else 416
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    with contextlib.suppress(OSError):  # the client may leave first
                        self.wfile.write(body[: mirror.breaks_after])

                def log_message(self, *words):
                    pass

            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            mirror.url = f"http://127.0.0.1:{server.server_port}/"
            return mirror

        yield start


def accept(part):
    if part.read_bytes() != CONTENT:
        raise DataError(part, "the content", "another")


def fetch(mirrors, part, limit=10**6):
    return download("x.gz", [mirror.url for mirror in mirrors], part, limit, accept)


def test_a_download_brings_the_file_and_leaves_no_part(serve, tmp_path):
    taken = []
    mirror, part = serve(), tmp_path / "new" / "x.gz"
    url = download("x.gz", [mirror.url], part, 10**6, lambda p: taken.append(p.read_bytes()))
    assert url == mirror.url + "x.gz"
    assert taken == [CONTENT]
    assert not part.exists()


def test_a_broken_transfer_goes_on_where_it_stopped(serve, tmp_path):
    mirror = serve(breaks_after=3 * CHUNK)
    fetch([mirror], tmp_path / "x.gz")
    assert mirror.log == [None, "bytes=196608-"]


def test_another_mirror_takes_up_a_broken_transfer(serve, tmp_path):
    broken, sound = serve(breaks_after=CHUNK), serve()
    assert fetch([broken, sound], tmp_path / "x.gz").startswith(sound.url)
    assert sound.log == ["bytes=65536-"]


def test_an_interrupted_run_is_resumed_by_the_next(serve, tmp_path):
    mirror, part = serve(breaks_after=CHUNK), tmp_path / "x.gz"
    with pytest.raises(Unavailable):
        fetch([mirror], part)
    assert part.read_bytes() == CONTENT[: 2 * CHUNK]
    mirror.breaks_after = None
    fetch([mirror], part)
    assert mirror.log[-1] == "bytes=131072-"


def test_a_part_that_was_complete_is_not_fetched_again(serve, tmp_path):
    mirror, part = serve(), tmp_path / "x.gz"
    part.write_bytes(CONTENT)
    fetch([mirror], part)
    assert mirror.log == ["bytes=300000-"] and not part.exists()


def test_a_part_of_something_else_is_dropped_and_the_whole_fetched(serve, tmp_path):
    mirror, part = serve(), tmp_path / "x.gz"
    part.write_bytes(b"of another file")
    fetch([mirror], part)
    assert mirror.log == ["bytes=15-", None]


def test_a_mirror_that_ignores_ranges_sends_the_whole_again(serve, tmp_path):
    mirror, part = serve(knows_ranges=False), tmp_path / "x.gz"
    part.write_bytes(CONTENT[:1000])
    fetch([mirror], part)
    assert mirror.log == ["bytes=1000-"]


@pytest.mark.parametrize("fault", [{"content": CONTENT[:-1] + b"?"}, {"status": 404}])
def test_after_a_bad_mirror_the_next_is_asked(serve, tmp_path, fault):
    bad, good = serve(**fault), serve()
    assert fetch([bad, good], tmp_path / "x.gz").startswith(good.url)
    assert good.log == [None]


def test_wrong_content_everywhere_names_each_mirror_and_leaves_nothing(serve, tmp_path):
    mirrors, part = [serve(content=b"login page"), serve(status=500)], tmp_path / "x.gz"
    with pytest.raises(Unavailable) as error:
        fetch(mirrors, part)
    assert all(mirror.url in str(error.value) for mirror in mirrors)
    assert not part.exists()


def test_no_more_than_the_limit_is_taken(serve, tmp_path):
    with pytest.raises(Unavailable, match="expected at most 1,000 bytes, got more"):
        fetch([serve()], tmp_path / "x.gz", limit=1000)
    assert not (tmp_path / "x.gz").exists()


def test_mirrors_that_do_not_answer_are_left_out(serve):
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        ports = silent.getsockname()[1], closed.getsockname()[1]
        sound = serve(status=403)
        urls = [*(f"http://127.0.0.1:{port}/" for port in ports), sound.url]
        assert answering(urls, seconds=0.5) == [sound.url]


def test_a_name_look_up_that_hangs_costs_no_more_than_the_deadline(monkeypatch):
    released = threading.Event()

    def hang(*address, **how):
        released.wait(5)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    assert answering(["http://mirror.invalid/"], seconds=0.2) == []
    assert time.monotonic() - start < 2
    released.set()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Fake apt-get and dpkg-deb, the only programs on PATH; `tools(name, lines)` makes one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name, *lines):
        path = folder / name
        head = f"#!{sys.executable} -IS\nimport os, sys, time\nargs = sys.argv[1:]\n"
        path.write_text(head + "\n".join(lines))
        path.chmod(0o755)

    make("dpkg-deb", "os.makedirs(args[2])", "open(args[2] + '/' + open(args[1]).read(), 'w')")
    return make


def test_a_package_is_fetched_and_unpacked_in_a_folder_that_goes_away(tools, capsys):
    tools("apt-get", "'--print-uris' in args or open(args[-1] + '_1.deb', 'w').write('payload')")
    with unpacked("some-package") as root:
        assert [path.name for path in root.iterdir()] == ["payload"]
    assert not root.exists()
    assert "some-package" in capsys.readouterr().err


def test_without_package_lists_private_ones_are_fetched(tools):
    tools(
        "apt-get",
        "lists = [a.split('=')[1] for a in args if a.startswith('Dir::State::Lists=')]",
        "if args[0] == 'update': open(lists[0] + '/known', 'w')",
        "elif not lists or not os.path.exists(lists[0] + '/known'): sys.exit('E: unknown')",
        "elif args[0] == 'download': open('p_1.deb', 'w').write('payload')",
    )
    with unpacked("p") as root:
        assert (root / "payload").exists()


def test_a_machine_without_apt_says_so(tools):
    with pytest.raises(Unavailable, match="no apt-get here"), unpacked("p"):
        pass


def test_the_last_words_of_apt_are_the_reason(tools):
    tools("apt-get", "sys.exit('W: hm\\nE: Temporary failure resolving')")
    with pytest.raises(Unavailable, match="^apt-get: E: Temporary failure resolving$"):
        with unpacked("p"):
            pass
