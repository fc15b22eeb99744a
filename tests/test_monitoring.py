"""What is shipped to watch Everref with: alert rules, a dashboard, an example of how Prometheus reads it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

from tests.parts.promtool import promtool
from tests.parts.repos import Work
from tests.parts.web import Site
from tests.test_metrics import busy, naming_teams, read

__all__ = ["promtool"]
DEPLOY: Final = Path(__file__).parents[1] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "everref.rules.yml"
TESTS: Final = DEPLOY / "prometheus" / "everref.rules.test.yml"
CONFIG: Final = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD: Final[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "everref.json").read_text())
ALERTS: Final = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
OPERATIONS: Final = (DEPLOY.parent / "docs" / "operations.md").read_text()


def asked(panels: list[dict[str, Any]]) -> Iterator[str]:
    """Every expression of the dashboard."""
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))


def run(promtool: str, *words: str | Path) -> str:
    done = subprocess.run([promtool, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules_and_the_example(promtool: str) -> None:
    assert f"{len(ALERTS)} rules found" in run(promtool, "check", "rules", RULES)
    run(promtool, "check", "config", "--syntax-only", CONFIG)


def test_each_alert_comes_when_it_must_and_not_before(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", TESTS)
    named = set(re.findall(r'alertname="(\w+)"', TESTS.read_text()))
    assert {rule["alert"] for rule in ALERTS} == named


def test_promtool_takes_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(asked(DASHBOARD["panels"]))
    ]
    assert len(rules) > 20
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    run(promtool, "check", "rules", tmp_path / "rules.yml")


async def test_every_number_that_they_ask_for_is_told_and_so_is_each_label(site: Site, work: Work) -> None:
    naming_teams(site)
    await busy(site, work)
    text = (await read(site)).text
    samples = {
        name: set(re.findall(r'(\w+)="', labels))
        for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.M)
    }
    told = samples.keys() | set(re.findall(r"^# HELP (\S+)", text, re.M))
    expressions = [*asked(DASHBOARD["panels"]), *(rule["expr"] for rule in ALERTS)]
    for expr in expressions:
        names = re.findall(r"\beverref_\w+", expr)
        assert names or expr.startswith("up{"), expr
        assert set(names) <= told, expr
        for name, matchers in re.findall(r"\b(everref_\w+)\{(.*?)\}", expr):
            labels = set(re.findall(r"(\w+)[=!]", matchers)) - {"job"}
            assert labels <= samples.get(name, labels), expr


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "none")
    assert len(rule["annotations"]["summary"]) < 100
    assert re.search(r"See|Run|Start|start|everref |connect|make", rule["annotations"]["description"])
    assert f"`{rule['alert']}`" in OPERATIONS


def test_the_dashboard_asks_whichever_prometheus_is_chosen() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    sources = re.findall(r'"uid": "(.*?)"', json.dumps(DASHBOARD["panels"]))
    assert set(sources) == {"${datasource}"}
    assert [
        panel["title"] for panel in DASHBOARD["panels"] if panel["type"] != "row" and not panel["description"]
    ] == []


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_the_example_names_the_job_that_alerts_and_dashboard_go_by() -> None:
    (job,) = yaml.safe_load(CONFIG.read_text())["scrape_configs"]
    assert job["job_name"] == "everref" and "credentials_file" in job["authorization"]
    assert 'job="everref"' in RULES.read_text()
    assert all('job="everref"' in expr for expr in asked(DASHBOARD["panels"]))
