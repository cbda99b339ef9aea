"""The promises of the panels, kept in a real JupyterLab with a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from trainkit.files.record import Parent, Record, Status
from trainkit.files.store import Store
from trainkit.files.streams import tail

from .lab import Lab, Notebook
from .seeing import FIT, newest, pixels, runs, state, step, stop_takes_s, until

Opened = Callable[..., Notebook]

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]


def test_watching_a_job_to_its_end(notebook: Opened) -> None:
    """A job at the end of a cell: its chart moves; at its end a picture is stored, and is small."""
    nb = notebook([FIT, "job = tk.submit(fit)\njob"])
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    state(panel, "Running")
    until(lambda: panel.locator("canvas").count() and step(panel) > 5)
    before, drawn = step(panel), pixels(panel)
    until(lambda: step(panel) > before and pixels(panel) != drawn)
    panel.locator(".tk-plot").first.hover(position={"x": 200, "y": 60})
    expect(panel.locator(".tk-at").first).to_have_text(re.compile(r"step \d"))
    panel.get_by_role("button", name="Finish").click()
    expect(nb.output(1).locator("img")).to_have_count(1, timeout=60_000)
    (stored,) = nb.outputs(1)
    assert sorted(stored["data"]) == ["text/html", "text/plain"]
    assert "Completed" in nb.output(1).inner_text()
    nb.save()
    size = len(json.dumps(nb.outputs(1)))
    assert size < 30_000, "ten such outputs must stay below 300 KB"


def test_a_click_works_while_the_kernel_is_busy(notebook: Opened) -> None:
    """Stop takes effect within a second while another cell computes, and the panel shows it."""
    nb = notebook([FIT, "job = tk.submit(fit)\njob", "began = time.time()\nwhile time.time() - began < 12: pass"])
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    state(panel, "Running")
    nb.run(2, wait=False)
    before = step(panel)
    until(lambda: step(panel) > before)
    took_s = stop_takes_s(nb, panel)
    assert runs(nb, 2)
    assert took_s < 1.0
    expect(nb.output(1)).to_contain_text("Stopped", timeout=30_000)


def test_a_reload_and_a_restart(notebook: Opened) -> None:
    """After a reload the panel is alive; after a restart it says so, goes on by HTTP, and comes back."""
    nb = notebook([FIT, "job = tk.submit(fit, runner='process')\njob", "import trainkit as tk\ntk.attach()"])
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    until(lambda: step(panel) > 2)
    nb.save()
    nb.page.reload()
    nb.ready()
    panel = nb.output(1).locator(".tk-monitor")
    expect(panel).to_be_visible(timeout=30_000)
    before = step(panel)
    until(lambda: step(panel) > before)

    nb.restart_kernel()
    expect(panel.get_by_role("alert").filter(has_text="kernel")).to_contain_text("tk.attach(")
    before = step(panel)
    until(lambda: step(panel) > before)  # by HTTP, from the files
    nb.run(2)
    again = nb.output(2).locator(".tk-monitor")
    until(lambda: again.locator("canvas").count() and step(again) > 0)
    again.get_by_role("button", name="Stop").click()
    expect(nb.output(2)).to_contain_text("Stopped", timeout=30_000)
    state(panel, "Stopped")


#: Do something between two looks of the panels at their jobs.
UNSEEN = """
import time
from trainkit.panels.refresher import refresher
usual, refresher.period_s = refresher.period_s, 60
time.sleep(2 * usual)
{}
refresher.period_s = usual
refresher._wake.set()
"""


@pytest.mark.extended
def test_a_page_that_was_loaded_again_stores_the_picture(notebook: Opened) -> None:
    """A page that does not know the cells' displays any more stores the pictures nevertheless: of a job that ends,
    of one that ended while no page was there, and of one that was deleted at once."""
    names = ("ends", "ended", "deleted")
    nb = notebook(
        [
            f"{FIT}import os; os.environ['TRAINKIT_MAX_JOBS'] = '3'",
            *(f"{name} = tk.submit(fit, name='{name}')\n{name}" for name in names),
            UNSEEN.format("deleted.stop(); deleted.wait(); deleted.delete()"),
        ]
    )
    for cell in range(4):
        nb.run(cell)
    for cell in (1, 2, 3):
        until(lambda cell=cell: nb.output(cell).locator("canvas").count())
    nb.save()
    url = nb.page.url
    nb.page.goto("about:blank")
    store = Store(nb.lab.root)
    (ended,) = [job_id for job_id in store.job_ids() if store.read(job_id).name == "ended"]
    store.request(ended, "stop")
    until(lambda: store.read(ended).status is Status.STOPPED)
    nb.page.goto(url)
    nb.ready()
    expect(nb.output(1).locator(".tk-monitor canvas")).to_have_count(1, timeout=30_000)
    expect(nb.output(3).locator(".tk-monitor canvas")).to_have_count(1, timeout=30_000)
    nb.run(4)
    nb.output(1).get_by_role("button", name="Stop").click()
    for cell, told in ((1, "Stopped"), (2, "Stopped"), (3, "Deleted")):
        expect(nb.output(cell).locator("img")).to_have_count(1, timeout=30_000)
        expect(nb.output(cell)).to_contain_text(told)
        (stored,) = nb.outputs(cell)
        assert sorted(stored["data"]) == ["text/html", "text/plain"]


def test_launching_from_the_form(notebook: Opened) -> None:
    """The form shows what is wrong, starts the job, and becomes its monitor."""
    nb = notebook([FIT, "tk.launcher(fit)"])
    nb.run(0)
    nb.run(1)
    form = nb.output(1).locator(".tk-launcher")
    hidden = form.get_by_label("hidden")
    hidden.fill("many")
    expect(form.locator(".tk-problem").first).to_contain_text("whole number")
    hidden.fill("128")
    expect(form.locator(".tk-problem").first).to_be_hidden()
    form.get_by_label("Name").fill("from the <b>form</b>")
    form.get_by_role("button", name="Start training").click()
    panel = nb.output(1).locator(".tk-monitor")
    state(panel, "Running")
    expect(panel.locator(".tk-name")).to_have_text("from the <b>form</b>")
    expect(panel.get_by_label("hidden", exact=True)).to_have_value("128")
    until(lambda: step(panel) > 2)
    panel.get_by_role("button", name="Stop").click()
    expect(nb.output(1)).to_contain_text("Stopped", timeout=30_000)


def many_jobs(root: Lab, count: int) -> None:
    """Write jobs that are over, as their owners would have left them."""
    store = Store(root.root)
    for number in range(count):
        record = Record(
            job_id=f"many{number:05d}",
            name=f"sweep {number}",
            status=[Status.COMPLETED, Status.STOPPED, Status.FAILED][number % 3],
            runner="process",
            metrics={"loss": number / 1000},
            progress=100.0,
            created_at=1_700_000_000.0 + number,
            parent=Parent("many00770", 10) if number == 773 else None,
        )
        store.create(record).close()
        rows = [f'{{"attempt":1,"step":{step},"loss":{number + step}}}' for step in range(1, 30)]
        store.paths(record.job_id).metrics.write_text("\n".join(rows) + "\n")


@pytest.mark.extended
def test_a_dashboard_with_a_thousand_jobs(notebook: Opened, lab: Lab) -> None:
    """Quick to filter and sort; curves over each other; a job is opened; one is deleted, after a question."""
    many_jobs(lab, 1000)
    nb = notebook(["import trainkit as tk\ntk.dashboard()"])
    nb.run(0)
    board = nb.output(0).locator(".tk-dashboard")
    rows = board.locator(".tk-sizer .tk-tr:visible")
    expect(board.locator(".tk-count")).to_contain_text(re.compile(r"1.?0\d\d jobs"), timeout=30_000)
    assert rows.count() < 30, "only the rows that are seen are in the page"
    board.get_by_label("Filter jobs").fill("many0077")
    expect(board.locator(".tk-count")).to_contain_text("10 of")
    board.get_by_role("button", name="Name").click()
    expect(rows.first.locator(".tk-link")).to_have_text("sweep 770")
    board.get_by_label("Select sweep 773", exact=True).check()
    board.get_by_role("button", name="Add the parent").click()  # sweep 773 is a branch of sweep 770
    expect(board.locator(".tk-curves .tk-line-name")).to_have_text(["sweep 773", "sweep 770"])
    expect(board.locator(".tk-curves canvas")).to_have_count(1)
    mark = board.locator(".tk-curves .tk-mark:visible").bounding_box()
    assert mark is not None
    nb.page.mouse.move(mark["x"] + 2, mark["y"] + 60)
    expect(board.locator(".tk-tip:visible")).to_have_text("step 10sweep 773 branches off sweep 770")
    board.get_by_role("button", name="sweep 771").click()
    expect(board.locator(".tk-monitor .tk-name")).to_have_text("sweep 771")
    expect(board.locator(".tk-monitor canvas")).to_have_count(1)
    board.get_by_role("button", name="Back to all jobs").click()
    board.get_by_role("button", name="Clear").click()
    board.get_by_label("Select sweep 772", exact=True).check()
    board.get_by_role("button", name="Delete").click()
    question = board.get_by_role("alertdialog")
    expect(question).to_contain_text("Delete sweep 772, with its metrics")
    store = Store(lab.root)
    assert "many00772" in store.job_ids()
    question.get_by_role("button", name="Delete sweep 772").click()
    until(lambda: "many00772" not in store.job_ids())
    expect(board.locator(".tk-count")).to_contain_text("9 of")


def luminance(colour: str) -> float:
    red, green, blue = (int(each) for each in re.findall(r"\d+", colour)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_the_theme_is_followed_live(notebook: Opened) -> None:
    """Switching JupyterLab to dark turns an open panel dark, its canvas too; and back."""
    nb = notebook([FIT, "job = tk.submit(fit)\njob"])
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-panel")
    until(lambda: panel.locator("canvas").count() and step(panel) > 2)
    panel.get_by_role("button", name="Pause").click()
    state(panel, "Paused")

    def look() -> tuple[float, float, str]:
        style = "name => element => getComputedStyle(element)[name]"
        back = panel.evaluate(f"(element) => ({style})('backgroundColor')(element)")
        text = panel.locator(".tk-name").evaluate(f"(element) => ({style})('color')(element)")
        return luminance(back), luminance(text), pixels(panel)

    light = look()
    assert light[0] > 0.9
    assert light[1] < 0.3
    nb.theme("JupyterLab Dark")
    until(lambda: look()[0] < 0.2 and look()[2] != light[2])
    dark = look()
    assert dark[1] > 0.8
    nb.theme("JupyterLab Light")
    until(lambda: look()[0] > 0.9 and look()[2] != dark[2])
    panel.get_by_role("button", name="Stop").click()
    expect(nb.output(1)).to_contain_text("Stopped", timeout=30_000)


def test_by_keyboard_alone(notebook: Opened) -> None:
    """Buttons are reached by Tab, values read by arrow keys; everything has a name for a screen reader."""
    nb = notebook([FIT, "job = tk.submit(fit)\njob"])
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-panel")
    until(lambda: panel.locator("canvas").count() and step(panel) > 2)
    plot = panel.locator(".tk-plot").first
    plot.focus()
    nb.page.keyboard.press("ArrowRight")
    expect(panel.locator(".tk-at").first).to_have_text("step 1")
    nb.page.keyboard.press("ArrowRight")
    before = step(panel)
    until(lambda: step(panel) > before + 40)  # the chart grows, and the validation comes in meanwhile
    expect(panel.locator(".tk-at").first).to_have_text("step 2")
    nb.page.keyboard.press("+")
    expect(panel.get_by_role("button", name="Reset zoom").first).to_be_visible()
    nb.page.keyboard.press("Escape")
    expect(panel.get_by_role("button", name="Reset zoom")).to_have_count(0)
    unnamed = panel.evaluate(
        "panel => [...panel.querySelectorAll('button, input, select')].filter(each =>"
        " !(each.innerText || each.getAttribute('aria-label') || each.labels?.length)).length"
    )
    assert unnamed == 0
    panel.get_by_role("button", name="Pause").focus()
    nb.page.keyboard.press("Tab")
    nb.page.keyboard.press("Tab")
    nb.page.keyboard.press("Enter")
    expect(nb.output(1)).to_contain_text("Stopped", timeout=30_000)


def test_a_slider_changes_the_job(notebook: Opened) -> None:
    """Moved by the keyboard while the kernel is busy, it takes effect, and the chart is marked where it did."""
    nb = notebook(
        [
            FIT.replace("hidden: int = 64", "lr: float = 1e-3, hidden: int = 64"),
            "job = tk.submit(fit)\njob",
            "began = time.time()\nwhile time.time() - began < 6: pass",
        ]
    )
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    until(lambda: panel.locator("canvas").count() and step(panel) > 2)
    job_id = newest(nb.lab)
    nb.run(2, wait=False)
    slider = panel.get_by_label("lr, slider")
    slider.focus()
    for _ in range(5):
        nb.page.keyboard.press("ArrowRight")
    expect(panel.get_by_label("lr", exact=True)).to_have_value("0.0016")
    expect(slider).to_be_focused()
    store = Store(nb.lab.root)
    until(lambda: store.read(job_id).params["lr"] == 0.0016)
    mark = panel.locator(".tk-mark").first
    expect(mark).to_be_attached()
    panel.get_by_label("hidden", exact=True).fill("12.5")
    panel.get_by_label("hidden", exact=True).press("Enter")
    expect(panel.get_by_label("hidden", exact=True)).to_have_attribute("aria-invalid", "true")
    panel.get_by_role("button", name="Pause").click()
    state(panel, "Paused")
    place = mark.bounding_box()
    assert place is not None
    nb.page.mouse.move(place["x"] + 2, place["y"] + 60)
    (changed,) = [event for event in tail(store.paths(job_id).events)[0] if event["event"] == "change"]
    expect(panel.locator(".tk-tip:visible")).to_have_text(f"step {changed['step']}lr 0.001 → 0.0016")
    panel.get_by_role("button", name="Stop").click()
    expect(nb.output(1)).to_contain_text(f"step {changed['step']}: lr 0.001 → 0.0016", timeout=30_000)


@pytest.mark.parametrize("granted", [pytest.param(True, marks=pytest.mark.extended), False])
def test_the_bell(notebook: Opened, granted: bool) -> None:
    """Who asked is told when the job ends: by the browser where it may, else in the page and its title."""
    nb = notebook([FIT, "job = tk.submit(fit)\njob"])
    permission = "granted" if granted else "denied"
    nb.page.evaluate(
        """permission => {
            window.told = [];
            class Told { constructor(title) { window.told.push(title); } }
            Told.permission = permission;
            Told.requestPermission = async () => permission;
            window.Notification = Told;
            document.hasFocus = () => false;
        }""",
        permission,
    )
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    until(lambda: panel.locator("canvas").count())
    bell = panel.get_by_role("button", name="Tell me when it ends")
    bell.click()
    expect(bell).to_have_attribute("aria-pressed", "true")
    panel.get_by_role("button", name="Stop").click()
    expect(nb.output(1)).to_contain_text("Stopped", timeout=30_000)
    if granted:
        assert nb.page.evaluate("() => window.told") == ["fit: stopped"]
        expect(nb.page.locator(".tk-toast")).to_have_count(0)
    else:
        expect(nb.page.locator(".tk-toast")).to_contain_text("fit: stopped")
        nb.page.wait_for_function("() => document.title === '● fit: stopped'")
        nb.page.evaluate("() => window.dispatchEvent(new Event('focus'))")
        assert "stopped" not in nb.page.title()


LIVE_PLOT = """
import sys, threading, time, trainkit as tk
import matplotlib.pyplot as plt
from IPython.display import clear_output
go_on = threading.Event()
def live(run):
    print("loss 0.25")
    for epoch in run.epochs(4):
        run.log(loss=1 / (epoch + 1))
        sys.stderr.write(f"\\r{epoch + 1}/4 epochs")
        plt.plot([1, 2, epoch + 1])
        plt.title(f"epoch {epoch + 1}")
        clear_output(wait=True)
        plt.show()
    go_on.wait(60)
"""


def test_a_live_plot_of_a_job_comes_below_its_panel(notebook: Opened) -> None:
    """It takes its own place again and again; the panel and the cells that run meanwhile stay as they are."""
    nb = notebook([LIVE_PLOT, "job = tk.submit(live)\njob", "'another cell'", "go_on.set()"])
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    state(panel, "Running")
    nb.run(2)
    expect(panel.locator(".tk-output").last).to_contain_text("4/4 epochs", timeout=30_000)
    until(lambda: nb.output(1).locator("img").count() == 1)
    (data,) = [output["data"]["text/plain"] for output in nb.outputs(2)]
    assert data == "'another cell'"
    panel.locator("details.tk-output summary").last.click()
    expect(panel.locator("details.tk-output").last.locator("pre")).to_have_text("loss 0.25\n4/4 epochs")
    assert len(nb.outputs(1)) == 2
    nb.run(3)
    expect(nb.output(1).locator("img")).to_have_count(2, timeout=60_000)
    panels, plots = nb.outputs(1)
    assert sorted(panels["data"]) == ["text/html", "text/plain"]
    assert sorted(plots["data"]) == ["image/png", "text/plain"]
