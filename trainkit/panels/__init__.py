"""The panels: what people see of their jobs in a notebook.

A panel reads files and appends requests, like everybody else; the training never waits for it.  What is shown
is decided in :mod:`trainkit.api.view`.  Where no front end is attached, every panel is a few lines of stable text.

The ways in are in :mod:`trainkit.panels.show`:

    monitor     one job                 display(job), job.panel()
    launcher    a form that starts one  tk.launcher(), tk.launcher(fit)
    dashboard   all jobs under a root   tk.dashboard()
"""
