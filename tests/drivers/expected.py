"""What is in the real stores of tests/data, read off with the sqlite3 shell.

A line a run, the newest start first: id, pipeline and version, status, start, last update (times of 2026-11-21,
UTC), and of each step in the step history: name (``!``: it failed), attempts, tokens, and cost if there was one.
The status is the state's; ``cancelled-001`` of 0.6.11 has failed in its state, completed in ``runs``, and no step
of it failed.
"""

from __future__ import annotations

NEW = """\
bgcrashed-001_bg_bg_58a11160bc9345138fd41a15a80c2fd9|unknown latest|running|00:11:14.815175|00:11:14.815175|
crashed-001|orders 1.0.0|running|00:11:14.777976|00:11:14.842324|load/1/1 enrich/1/0
bgcrashed-001|notifier 1.0.0|running|00:11:14.773863|00:11:14.820579|load/1/1 slow_bg/0/0
bgparent-001_bg_bg_23d875c599424dd6aa5fe053e8f2c700|unknown latest|failed|00:11:11.344300|00:11:11.344300|
bgparent-001_bg_bg_423670f9b70243479cbd071658e5a469|unknown latest|completed|00:11:11.270058|00:11:11.270058|
bgparent-001|notifier 1.0.0|completed|00:11:11.152023|00:11:11.305010|load/1/1 notify/0/0 notify_fail/0/0 finish/1/1
complex-001|orders 1.0.0|completed|00:11:10.978874|00:11:11.101006|load/1/1 enrich/1/0 finish/1/1
binary-001|orders 1.0.0|completed|00:11:10.823269|00:11:10.939323|load/1/1 enrich/1/0 finish/1/1
üñí-run|odd 1.0.0|completed|00:11:10.699738|00:11:10.784213|load/1/1 finish/1/1
per%cent_under|odd 1.0.0|completed|00:11:10.588447|00:11:10.672239|load/1/1 finish/1/1
weird id/with slash|odd 1.0.0|completed|00:11:10.475321|00:11:10.560225|load/1/1 finish/1/1
cancelled-001|orders 1.0.0|cancelled|00:11:10.365427|00:11:10.446923|load/1/1 enrich/1/0
paused-loop-001|approvals-loop 1.0.0|paused|00:11:10.269942|00:11:10.315853|
paused-schema-001|approvals 1.1.0|paused|00:11:10.165366|00:11:10.221571|load/1/1
cost-001|costly 1.0.0|completed|00:11:10.015607|00:11:10.124576|load/1/1 priced/1/456/0.0123 finish/1/1
meta-001|orders 1.0.0|completed|00:11:09.856751|00:11:09.976343|load/1/1 enrich/1/0 finish/1/1
plain-001|unnamed_20261120_191109 latest|completed|00:11:09.712680|00:11:09.818631|load/1/1 enrich/1/0 finish/1/1
single-001|single 1.0.0|completed|00:11:09.616184|00:11:09.673036|load/1/1
run_3d910948d833493585c530b50f639448|orders 1.0.0|completed|00:11:09.476305|00:11:09.598549|load/1/1 enrich/1/0 finish/1/1
otel-001|otelpipe 3.0.0|running|00:11:09.432895|00:11:09.432895|
trace4-001|research 1.0.0|completed|00:11:09.256917|00:11:09.381939|load/1/1 research/1/1 finish/1/1
deep-001|deep 1.0.0|completed|00:11:09.018562|00:11:09.217274|load/1/1 count_to_3/3/0 fan/1/2 finish/1/1
resumed-001|approvals 1.0.0|completed|00:11:08.755904|00:11:08.908039|load/1/1 approve/1/0 after_human/1/1 finish/1/1
paused-001|approvals 1.0.0|paused|00:11:08.646500|00:11:08.705655|load/1/1
fail-001|payments 1.0.0|failed|00:11:08.538446|00:11:08.598091|load/1/1 boom!/2/0
orders-v2-002|orders 2.0.0|completed|00:11:08.339082|00:11:08.494703|load/1/1 enrich/1/0 invoice_out/1/0 finish_v2/1/1
orders-v2-001|orders 2.0.0|completed|00:11:08.190318|00:11:08.309641|load/1/1 enrich/1/0 invoice_out/1/0 finish_v2/1/1
orders-v1-003|orders 1.0.0|completed|00:11:08.008423|00:11:08.135379|load/1/1 enrich/1/0 finish/1/1
orders-v1-002|orders 1.0.0|completed|00:11:07.844287|00:11:07.965777|load/1/1 enrich/1/0 finish/1/1
orders-v1-001|orders 1.0.0|completed|00:11:07.701290|00:11:07.813333|load/1/1 enrich/1/0 finish/1/1
"""  # noqa: E501
OLD = """\
crashed-001|orders 1.0.0|running|00:11:34.985610|00:11:35.027414|load/1/0 enrich/1/0
complex-001|orders 1.0.0|completed|00:11:33.326111|00:11:33.488193|load/1/0 enrich/1/0 finish/1/0
binary-001|orders 1.0.0|completed|00:11:33.155785|00:11:33.316723|load/1/0 enrich/1/0 finish/1/0
üñí-run|odd 1.0.0|completed|00:11:32.993839|00:11:33.142159|load/1/0 finish/1/0
per%cent_under|odd 1.0.0|completed|00:11:32.831901|00:11:32.981090|load/1/0 finish/1/0
weird id/with slash|odd 1.0.0|completed|00:11:32.672166|00:11:32.819687|load/1/0 finish/1/0
cancelled-001|orders 1.0.0|cancelled|00:11:32.573364|00:11:32.659951|load/1/0 enrich/1/0
paused-loop-001|approvals-loop 1.0.0|paused|00:11:32.521682|00:11:32.552916|
paused-schema-001|approvals 1.1.0|paused|00:11:32.458895|00:11:32.497190|load/1/0
cost-001|costly 1.0.0|completed|00:11:32.286025|00:11:32.445089|load/1/0 priced/1/456/0.0123 finish/1/0
meta-001|orders 1.0.0|completed|00:11:32.112814|00:11:32.274217|load/1/0 enrich/1/0 finish/1/0
plain-001|unknown latest|completed|00:11:31.943319|00:11:32.104259|load/1/0 enrich/1/0 finish/1/0
single-001|single 1.0.0|completed|00:11:31.803283|00:11:31.931554|load/1/0
run_f9d8b034766b4a5a8ed39f55b2d96f8c|orders 1.0.0|completed|00:11:31.625080|00:11:31.791193|load/1/0 enrich/1/0 finish/1/0
trace4-001|research 1.0.0|completed|00:11:31.425470|00:11:31.610970|load/1/0 research/1/0 finish/1/0
deep-001|deep 1.0.0|completed|00:11:31.230829|00:11:31.411810|load/1/0 count_to_3/3/0 fan/1/0 finish/1/0
resumed-001|approvals 1.0.0|completed|00:11:31.127315|00:11:31.206914|load/1/0 approve/1/0 after_human/1/0 finish/1/0
paused-001|approvals 1.0.0|paused|00:11:31.076990|00:11:31.115576|load/1/0
fail-001|payments 1.0.0|failed|00:11:31.023550|00:11:31.066265|load/1/0 boom!/1/0
orders-v2-002|orders 2.0.0|completed|00:11:30.833106|00:11:31.010737|load/1/0 enrich/1/0 invoice_out/1/0 finish_v2/1/0
orders-v2-001|orders 2.0.0|completed|00:11:30.640474|00:11:30.819254|load/1/0 enrich/1/0 invoice_out/1/0 finish_v2/1/0
orders-v1-003|orders 1.0.0|completed|00:11:30.456258|00:11:30.627142|load/1/0 enrich/1/0 finish/1/0
orders-v1-002|orders 1.0.0|completed|00:11:30.270115|00:11:30.441447|load/1/0 enrich/1/0 finish/1/0
orders-v1-001|orders 1.0.0|completed|00:11:30.081656|00:11:30.258048|load/1/0 enrich/1/0 finish/1/0
"""  # noqa: E501
OLDEST = """\
crashed-001|unknown latest|running|02:51:55.827335|02:51:55.827341|
üñí-run|unknown latest|completed|02:51:53.948756|02:51:53.948762|
weird id/with slash|unknown latest|completed|02:51:53.812290|02:51:53.812296|
cancelled-001|unknown latest|cancelled|02:51:53.673526|02:51:53.673528|
resumed-001|unknown latest|completed|02:51:53.050561|02:51:53.066431|
paused-001|unknown latest|paused|02:51:53.021235|02:51:53.021240|
fail-001|unknown latest|completed|02:51:52.991359|02:51:52.991365|
meta-001|orders 1.0.0|completed|02:51:52.862536|02:51:52.862541|
orders-001|unknown latest|completed|02:51:52.716686|02:51:52.716692|
"""
