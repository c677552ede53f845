"""What wsd shows of itself, read by those who will read it: Prometheus from Debian, its promtool, and the parser of its Python client."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic
from websockets.sync.client import connect

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts"
# Ample on a loaded two-core machine: nothing waits so long unless it fails.
DEADLINE_S = 30

# A name of ours inside a query. The suffixes belong to the histograms.
METRIC = re.compile(r"\b((?:wsd|process)_[a-z_]+?)(?:_bucket|_sum|_count)?\b(?=[^a-z_]|$)")


@contextlib.contextmanager
def running(command, first_line=False):
    stdout = subprocess.PIPE if first_line else subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            process.stderr.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate and its key, which have a metric of their own."""
    directory = tmp_path_factory.mktemp("tls")
    files = [str(directory / "cert.pem"), str(directory / "key.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    command += ["-subj", "/CN=localhost", "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    return files


@pytest.fixture(scope="module")
def wsd(certificate):
    """A wsd with some traffic behind it: the port of its WebSockets, and that of its admin listener."""
    program = os.environ.get("WSD_BIN", str(REPOSITORY / "target" / "debug" / "wsd"))
    command = [program, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--threads", "2", "--deflate"]
    command += ["--tls-listen", "127.0.0.1:0", "--tls-cert", certificate[0], "--tls-key", certificate[1]]
    with running(command, first_line=True) as process:
        ready = process.stdout.readline()
        ports = [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", ready)]
        assert len(ports) == 2, ready
        with contextlib.ExitStack() as stack:
            members = [stack.enter_context(connect(f"ws://127.0.0.1:{ports[0]}/rooms/a", open_timeout=DEADLINE_S)) for _ in range(4)]
            for number in range(10):
                members[0].send(f"message {number} " + "x" * 2000)
                for member in members:
                    member.recv(timeout=DEADLINE_S)
            yield ports
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        process.stdout.close()


def ask(url, accept="*/*"):
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def scrape(wsd, accept="*/*"):
    return ask(f"http://127.0.0.1:{wsd[1]}/metrics", accept)


def names_exported(wsd):
    return {line.split()[2] for line in scrape(wsd)[1].splitlines() if line.startswith("# TYPE ")}


def promtool(*args, stdin=None):
    ended = subprocess.run(["promtool", *args], input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_both_formats_say_the_same_to_the_parsers_of_the_python_client(wsd):
    content_type, text = scrape(wsd)
    assert content_type.startswith("text/plain; version=0.0.4")
    classic = {family.name: family for family in parse_classic(text)}
    content_type, text = scrape(wsd, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    open_metrics = {family.name: family for family in parse_openmetrics(text)}
    assert classic.keys() == open_metrics.keys()
    for name, family in open_metrics.items():
        assert (family.type, family.documentation) == (classic[name].type, classic[name].documentation)
        assert family.type in ("counter", "gauge", "histogram")
        shape = lambda samples: {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}
        assert shape(family.samples) == shape(classic[name].samples), name
    due = open_metrics["wsd_messages_due"].samples[0]
    assert (due.name, due.value) == ("wsd_messages_due_total", 40)


def test_promtool_has_nothing_to_say(wsd):
    assert promtool("check", "metrics", stdin=scrape(wsd)[1]) == ""


def test_the_examples_of_the_configuration_are_sound():
    promtool("check", "config", str(SCRIPTS / "prometheus.yml"))
    promtool("check", "rules", str(SCRIPTS / "prometheus-alerts.yml"))


def queries():
    """Every query of the dashboard and of the alerts, with where it stands."""
    dashboard = json.loads((SCRIPTS / "grafana-dashboard.json").read_text())
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [(note["name"], note["expr"]) for note in dashboard["annotations"]["list"]]
    # `promtool check rules` has read the file; of its YAML only these two shapes are needed here.
    rules = (SCRIPTS / "prometheus-alerts.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)\n\s+expr: (>\n(?: {10}.*\n)+|.*\n)", rules)
    assert len(alerts) == rules.count("- alert:")
    return found + [(name, expression.removeprefix(">")) for name, expression in alerts]


def test_dashboard_and_alerts_ask_for_what_there_is_and_leave_nothing_out(wsd):
    exported = names_exported(wsd)
    asked = set()
    for place, expression in queries():
        names = set(METRIC.findall(expression))
        assert names or expression.startswith("up{"), f"{place}: {expression}"
        assert names <= exported, f"{place} asks for {names - exported}"
        asked |= names
    # What needs no picture.
    assert exported - asked == {"process_virtual_memory_bytes", "process_threads", "process_open_fds", "wsd_uptime_seconds", "wsd_build_info"}


def test_no_panel_of_the_dashboard_hides_another():
    panels = json.loads((SCRIPTS / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        left, top, width, height = (panel["gridPos"][side] for side in "xywh")
        here = {(x, y) for x in range(left, left + width) for y in range(top, top + height)}
        assert not here & places, panel["title"]
        places |= here


def test_every_alert_leads_to_a_part_of_the_operations_guide():
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    rules = (SCRIPTS / "prometheus-alerts.yml").read_text()
    runbooks = re.findall(r"runbook: docs/operations\.md#(\S+)", rules)
    assert len(runbooks) == rules.count("- alert:")
    assert set(runbooks) <= anchors


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def prometheus(wsd, tmp_path_factory):
    """Prometheus with the example configuration, but for the addresses and a shorter interval: asks it a query."""
    directory = tmp_path_factory.mktemp("prometheus")
    configuration = (SCRIPTS / "prometheus.yml").read_text()
    for ours, theirs in [("127.0.0.1:9090", f"127.0.0.1:{wsd[1]}"), ("scrape_interval: 15s", "scrape_interval: 1s")]:
        assert configuration.count(ours) == 1
        configuration = configuration.replace(ours, theirs)
    (directory / "prometheus.yml").write_text(configuration)
    (directory / "prometheus-alerts.yml").write_text((SCRIPTS / "prometheus-alerts.yml").read_text())
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]

    def query(expression):
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        answer = json.loads(ask(url)[1])
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    with running(command) as process:
        until = time.monotonic() + DEADLINE_S
        while True:
            assert process.poll() is None, process.stderr.read()
            with contextlib.suppress(OSError):
                if [sample["value"][1] for sample in query('up{job="wsd"}')] == ["1"]:
                    break
            assert time.monotonic() < until, "Prometheus does not see wsd"
            time.sleep(0.2)
        yield query


def test_prometheus_scrapes_wsd(prometheus):
    value = lambda expression: [float(sample["value"][1]) for sample in prometheus(expression)]
    assert value("wsd_messages_due_total") == [40]
    dropped = "sum by (instance, job) (wsd_messages_dropped_total)"
    assert value(f"wsd_messages_due_total - wsd_messages_delivered_total - {dropped} - wsd_messages_queued") == [0]
    assert value('wsd_messages_published_total{route="/rooms/{room}"}') == [10]
    assert value("sum(wsd_connections)") == [4]
    assert value('wsd_fan_out_seconds_count{route="/rooms/{room}"} >= 10') != []
    assert value("wsd_deflate_output_bytes_total / wsd_deflate_input_bytes_total < 1") != []


def test_prometheus_understands_every_query_of_the_dashboard_and_the_alerts(prometheus):
    variables = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m", "$__interval": "1m"}
    for place, expression in queries():
        for name, value in variables.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, place
        prometheus(expression)
