-- The figures of `lens stats`, as one would write them by hand: right status by the join, percentiles by logarithmic
-- buckets of 2 %, failures by error out of the step history, spans by name.
.mode list
SELECT name, status, bucket, count(*), sum(ms), min(ms), max(ms) FROM (
  SELECT name, status, ms, CASE WHEN ms > 0 THEN CAST(floor(ln(ms) / 0.0198026272961797) AS INTEGER) END AS bucket FROM (
    SELECT COALESCE(r.pipeline_name, s.pipeline_name) AS name,
      CASE WHEN s.status = 'failed' AND r.status = 'completed' AND NOT EXISTS (
          SELECT 1 FROM json_each(s.step_history) h WHERE json_extract(h.value, '$.success') = 0)
        THEN 'cancelled' ELSE COALESCE(s.status, r.status) END AS status,
      (julianday(r.updated_at) - julianday(r.created_at)) * 86400000.0 AS ms
    FROM runs r LEFT JOIN workflow_state s ON s.run_id = r.run_id
    UNION ALL
    SELECT s.pipeline_name, s.status, s.execution_time_ms FROM workflow_state s
    WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_id = s.run_id)))
GROUP BY name, status, bucket;
SELECT error, step, count(*), min(at), max(at), max(run_id) FROM (
  SELECT s.run_id, s.updated_at AS at, json_extract(h.value, '$.feedback') AS error, json_extract(h.value, '$.name') AS step
  FROM workflow_state s, json_each(s.step_history) h
  WHERE s.status = 'failed' AND json_extract(h.value, '$.success') = 0)
GROUP BY error, step;
SELECT name, bucket, count(*), sum(ms), sum(failed) FROM (
  SELECT name, ms, failed, CASE WHEN ms > 0 THEN CAST(floor(ln(ms) / 0.0198026272961797) AS INTEGER) END AS bucket FROM (
    SELECT name, (end_time - start_time) * 1000.0 AS ms, status = 'failed' AS failed FROM spans))
GROUP BY name, bucket;
