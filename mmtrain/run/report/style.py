"""The look of the page: one sheet, light and dark, without a font or a picture of its own."""

STYLE = """\
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --dim: #59636e; --grid: #d3d8de; --line: #d1d9e0;
  --zebra: #f6f8fa; --mark: #0a69da; --good: #1a7f37; --bad: #c62f3b; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --paper: #0f1216; --ink: #e3e8ee; --dim: #98a3b0; --grid: #343b44;
  --line: #39414b; --zebra: #171b21; --mark: #6cb0ff; --good: #56d364; --bad: #ff7b72; --warn: #e3b341; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.25rem 4rem;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, ul { margin: .5rem 0; max-width: 60rem; }
ul { padding-left: 1.25rem; }
li { overflow-wrap: anywhere; }
a { color: var(--mark); }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
nav { color: var(--dim); margin: .5rem 0 0; }
nav a { margin-right: 1rem; }
.dim { color: var(--dim); }
.scroll { overflow-x: auto; max-width: 100%; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid var(--line); font-weight: 600; white-space: nowrap; }
thead tr:first-child th { border-top: 2px solid var(--ink); }
tbody tr:last-child > * { border-bottom: 2px solid var(--ink); }
tbody tr:nth-child(even) > * { background: var(--zebra); }
tbody th { font-weight: 400; white-space: nowrap; position: sticky; left: 0; background: var(--paper); }
th.span { text-align: center; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.text { max-width: 34rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.sd { color: var(--dim); }
.best .value { font-weight: 700; }
.count { color: var(--warn); font-size: .85em; }
.warning { border-left: 4px solid var(--warn); padding: .1rem 0 .1rem .9rem; margin: .9rem 0; }
.state-done { color: var(--good); }
.state-failed, .state-killed { color: var(--bad); }
.state-running, .state-preempted, .state-waiting, .state-unknown { color: var(--warn); }
figure { margin: 1rem 0; }
figcaption { color: var(--dim); font-size: .9rem; overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.curves figure { max-width: 46rem; }
.curves svg { width: 100%; height: auto; color: var(--ink); display: block; }
.samples { display: flex; flex-wrap: wrap; gap: 1.25rem; align-items: flex-end; }
.samples > figure { max-width: 100%; margin: 0; }
.samples img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; background: #fff; }
details > summary { cursor: pointer; color: var(--mark); margin: .5rem 0; }
@media print { body { max-width: none; } details { display: block; } }
"""
