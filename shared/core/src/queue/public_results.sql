-- The results accepted last.
SELECT s.run_id, s.runner_id, s.run_status, s.submitted_at,
       ARRAY(SELECT e.value ->> 'id' FROM queue_jobs j, json_array_elements(j.models) AS e(value)
              WHERE j.queue_id = s.queue_id) AS models,
       (SELECT avg((m.value ->> 'score')::double precision) FROM json_array_elements(s.metrics) AS m(value)) AS score
  FROM (SELECT * FROM submissions ORDER BY submitted_at DESC, runner_id DESC LIMIT $1) s
 ORDER BY s.submitted_at DESC
