-- The rejected design: the schema's own index, the filter in the query. It walks over every row that does
-- not fit.
UPDATE run_queue
   SET status = 'CLAIMED', claimed_by = $1, claimed_at = now(), claim_id = gen_random_uuid(),
       lease_expires_at = now() + interval '300 s', updated_at = now()
 WHERE queue_id = (SELECT q.queue_id
                     FROM run_queue q
                    WHERE q.status = 'PENDING' AND (q.retry_after IS NULL OR q.retry_after <= now())
                      AND EXISTS (SELECT FROM queue_lanes l
                                   WHERE l.lane_id = q.lane_id AND l.required_vram_gb <= $2
                                     AND l.quantization_ids <@ ARRAY(SELECT quantization_id
                                                                       FROM quantization_methods
                                                                      WHERE name = ANY ($3))
                                  OFFSET 0)
                    ORDER BY q.priority, q.created_at
                    LIMIT 1
                      FOR UPDATE OF q SKIP LOCKED)
RETURNING queue_id
