-- Results accepted in each of the last 24 hours, the oldest first; the last one is the hour until now.
SELECT now() - make_interval(hours => ago + 1) AS began_at,
       (SELECT count(*) FROM submissions s
         WHERE s.submitted_at > now() - make_interval(hours => ago + 1)
           AND s.submitted_at <= now() - make_interval(hours => ago)) AS completed
  FROM generate_series(23, 0, -1) ago
 ORDER BY ago DESC
