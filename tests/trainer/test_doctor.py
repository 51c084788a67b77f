import socket
from importlib.metadata import version

from typer.testing import CliRunner

from nexrl.cli import build
from nexrl_trainer.doctor import PORTS, examine


def test_the_doctor_says_what_this_machine_has():
    found = {item.what: item for item in examine()}
    assert found["NexRL"].found == version("nexrl")
    assert found["Python"].state == found["torch"].state == found["ray"].state == "ok"
    assert "cores" in found["Python"].found


def test_every_remedy_is_shown_as_it_must_be_typed():
    done = CliRunner().invoke(build(["doctor"]), ["doctor"], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    for item in examine():
        assert item.remedy in done.output


def test_a_port_in_use_is_noted_with_what_to_do():
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", PORTS["proxy"]))
            holder.listen()
        except OSError:
            pass  # somebody else holds it, which serves as well
        [item] = [item for item in examine() if "proxy" in item.what]
    assert (item.state, item.found) == ("note", "in use")
    assert "--port" in item.remedy
