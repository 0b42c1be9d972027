"""The stylesheet of the report."""

STYLE = """
:root { --ink: #1b2430; --soft: #5b6876; --line: #d9dfe6; --tint: #f5f7f9; --good: #1a6e3c; --bad: #b3261e;
  --warn: #9a5b00; --plan: #1f5c99; }
* { box-sizing: border-box; }
body { margin: 0; background: #eef1f4; color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1100px; margin: 0 auto; background: #fff; padding: 20px 32px 36px; min-height: 100vh;
  box-shadow: 0 0 0 1px var(--line); }
header { display: flex; justify-content: space-between; align-items: flex-start; gap: 24px; }
h1 { font-size: 23px; line-height: 1.25; margin: 0 0 2px; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 24px 0 8px; padding-bottom: 4px; border-bottom: 2px solid var(--ink); }
h3 { font-size: 14px; margin: 16px 0 6px; }
.sub { color: var(--soft); margin: 0; }
.result { flex: none; min-width: 168px; text-align: center; color: #fff; border-radius: 6px; padding: 8px 20px 9px; }
.result b { display: block; font-size: 30px; line-height: 1.1; letter-spacing: 0.04em; text-transform: uppercase; }
.result span { font-size: 12.5px; }
.result.ok { background: var(--good); } .result.failed, .result.aborted, .result.killed { background: var(--bad); }
.result.interrupted { background: var(--warn); } .result.dry { background: var(--plan); }
.banner { margin: 12px 0 0; padding: 8px 14px; border-radius: 6px; font-weight: 700; letter-spacing: 0.02em; }
.banner.lab { background: repeating-linear-gradient(135deg, #ffe9a8, #ffe9a8 14px, #ffdf85 14px, #ffdf85 28px);
  border: 2px solid #c58a00; color: #4a3300; text-align: center; font-size: 15px; }
.banner.dry { background: #e3eefa; border: 1px solid #8db5de; color: #123f6d; text-align: center; }
.trouble { margin: 12px 0 0; padding: 10px 16px; border: 2px solid var(--bad); border-left-width: 8px;
  border-radius: 6px; background: #fdf1f0; overflow-wrap: anywhere; }
.trouble p { margin: 0 0 6px; } .trouble p:last-child { margin: 0; }
.trouble ul { margin: 2px 0 6px; padding-left: 20px; }
dl.facts { display: grid; grid-template-columns: 98px 1fr 80px 1fr; gap: 0; margin: 14px 0 0;
  border-top: 1px solid var(--line); }
dl.facts dt, dl.facts dd { margin: 0; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
dl.facts dt { color: var(--soft); } dl.facts .wide { grid-column: 2 / -1; }
code, pre, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code, .mono { font-size: 12.5px; }
.params { display: inline-block; margin: 0 14px 0 0; white-space: nowrap; max-width: 100%; overflow-wrap: anywhere; }
.params i { color: var(--soft); font-style: normal; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 28px; align-items: start; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: 12px; border-bottom: 1px solid #aab4bf; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; width: 1px; padding-left: 16px; padding-right: 4px; }
td.count, th.count { width: 34px; color: var(--soft); }
td.key { white-space: nowrap; } tr.differs td:last-child { font-weight: 600; }
td ul { margin: 3px 0 0; padding-left: 16px; color: var(--soft); }
.mark { width: 20px; font-weight: 700; }
.s-ok, .s-done { color: var(--good); } .s-changed { color: #0b5b6b; } .s-failed { color: var(--bad); }
.s-interrupted { color: var(--warn); } .s-planned { color: var(--plan); } .s-skipped, .s-pending { color: var(--soft); }
td.s-failed, td.s-interrupted { font-weight: 700; }
figure { margin: 0; } img { max-width: 100%; height: auto; }
.pair figure img { border: 1px solid var(--line); border-radius: 4px; max-height: 330px; }
ul.unchecked { margin: 0; padding: 10px 14px 10px 32px; background: #fff8e6; border: 1px solid #ecd9a3;
  border-radius: 6px; }
.prose { max-width: 820px; } .prose h1 { font-size: 19px; margin-top: 18px; } .prose h2 { border: 0; margin-top: 18px; }
.cell { margin: 8px 0 14px; padding: 6px 0 2px 14px; border-left: 3px solid var(--line); }
.cell.failed { border-left-color: var(--bad); } .cell.interrupted { border-left-color: var(--warn); }
.cell.pending { border-left-style: dashed; color: var(--soft); }
.cell .output table { width: auto; margin: 4px 0 8px; font-size: 13px; } .cell .output th, .cell .output td {
  padding-right: 18px; } .cell .output p { margin: 4px 0; } .cell .output ul { margin: 2px 0 6px; padding-left: 22px; }
summary { cursor: pointer; color: var(--soft); }
.badge { font-size: 11px; font-weight: 700; border-radius: 3px; padding: 1px 6px; color: #fff;
  background: var(--soft); }
.badge.failed { background: var(--bad); } .badge.interrupted { background: var(--warn); }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 4px; padding: 8px 10px; margin: 6px 0;
  font-size: 12px; line-height: 1.4; white-space: pre-wrap; overflow-wrap: anywhere; }
pre.stderr { background: #fff8e6; border-color: #ecd9a3; }
pre.error { background: #fdf1f0; border-color: #eab8b4; color: #7a1710; }
footer { margin-top: 28px; padding-top: 10px; border-top: 2px solid var(--ink); color: var(--soft); }
footer p { margin: 4px 0; } footer code { color: var(--ink); overflow-wrap: anywhere; }
@media (max-width: 800px) { .pair { grid-template-columns: 1fr; } dl.facts { grid-template-columns: 98px 1fr; }
  header { flex-direction: column; } main { padding: 16px; } }
@media print { @page { margin: 14mm; } body { background: #fff; font-size: 10.5pt; }
  main { max-width: none; padding: 0; box-shadow: none; } .cell, tr, figure, .trouble { break-inside: avoid; }
  h2, h3 { break-after: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
