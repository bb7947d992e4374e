// graphile-worker on the same server, and our own SQL through the same driver.
// Started by `cargo bench --workspace --bench queue -- --graphile`; prints jobs per second.
//
//   node compare.mjs URL load JOBS
//   node compare.mjs URL ours-sql|graphile-sql|graphile-client SECONDS CONNECTIONS

import pg from "pg";
import { Logger, run, runMigrations } from "graphile-worker";

const [url, mode, amount, connections] = process.argv.slice(2);
const quiet = new Logger(() => () => {});

// As graphile-worker 0.18 sends it for one job at a time, in a queue of no name.
const GRAPHILE_CLAIM = `
  with j as (
    select jobs.job_queue_id, jobs.priority, jobs.run_at, jobs.id
      from graphile_worker._private_jobs as jobs
     where jobs.is_available = true and run_at <= now() and task_id = any($2::int[])
       and (jobs.job_queue_id is null or jobs.job_queue_id in (
             select id from graphile_worker._private_job_queues as job_queues
              where job_queues.is_available = true for update skip locked))
     order by priority asc, run_at asc
     limit 1 for update skip locked
  ), q as (
    update graphile_worker._private_job_queues as job_queues set locked_by = $1::text, locked_at = now()
      from j where job_queues.id = j.job_queue_id
  )
  update graphile_worker._private_jobs as jobs
     set attempts = jobs.attempts + 1, locked_by = $1::text, locked_at = now()
    from j where jobs.id = j.id returning *`;
const GRAPHILE_COMPLETE = `
  with j as (delete from graphile_worker._private_jobs using unnest($2::bigint[]) n(n)
              where id = n returning *)
  update graphile_worker._private_job_queues as job_queues set locked_by = null, locked_at = null
    from j where job_queues.id = j.job_queue_id and job_queues.locked_by = $1::text`;
const OUR_CLAIM = "SELECT * FROM queue_claim($1, $2, $3, $4, $5, $6)";
const OUR_COMPLETE = `
  UPDATE run_queue SET status = 'COMPLETE', lease_expires_at = NULL, completed_at = now(), updated_at = now()
   WHERE claim_id = $1 AND claimed_by = $2 AND status IN ('CLAIMED', 'IN_PROGRESS')`;

async function load(jobs) {
  await runMigrations({ connectionString: url, logger: quiet });
  const client = new pg.Client(url);
  await client.connect();
  await client.query("TRUNCATE graphile_worker._private_jobs");
  await client.query("INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('job') ON CONFLICT DO NOTHING");
  await client.query(
    `INSERT INTO graphile_worker._private_jobs (task_id, payload)
     SELECT id, json_build_object('n', n) FROM graphile_worker._private_tasks, generate_series(1, $1::int) n
      WHERE identifier = 'job'`, [jobs]);
  await client.query("VACUUM ANALYZE graphile_worker._private_jobs");
  await client.end();
}

/** Repeats a cycle on every connection for so many seconds; jobs per second. */
async function repeat(cycleOf) {
  const clients = [];
  for (let number = 0; number < Number(connections); number++) {
    const client = new pg.Client(url);
    await client.connect();
    clients.push([client, await cycleOf(client, number)]);
  }
  let done = 0;
  const began = performance.now();
  const until = began + Number(amount) * 1000;
  await Promise.all(clients.map(async ([, cycle]) => {
    while (performance.now() < until) {
      if (!(await cycle())) throw new Error("the queue is empty");
      done += 1;
    }
  }));
  const rate = (done / (performance.now() - began)) * 1000;
  await Promise.all(clients.map(([client]) => client.end()));
  return rate;
}

async function ours(client, number) {
  const name = `bench-${number}`;
  const runner = await client.query("SELECT key_id FROM runners WHERE runner_id = $1", [name]);
  const key = runner.rows[0].key_id;
  return async () => {
    const claimed = await client.query(OUR_CLAIM, [name, key, null, null, null, 300]);
    const job = claimed.rows[0];
    const completed = await client.query(OUR_COMPLETE, [job.claim_id, name]);
    return completed.rowCount === 1;
  };
}

async function graphile(client, number) {
  const tasks = await client.query("SELECT id FROM graphile_worker._private_tasks WHERE identifier = 'job'");
  const worker = `bench-${number}`;
  return async () => {
    const claimed = await client.query(GRAPHILE_CLAIM, [worker, [tasks.rows[0].id]]);
    if (claimed.rows.length === 0) return false;
    await client.query(GRAPHILE_COMPLETE, [worker, [claimed.rows[0].id]]);
    return true;
  };
}

async function graphileClient() {
  let done = 0;
  const runner = await run({
    connectionString: url, concurrency: Number(connections), maxPoolSize: Number(connections) + 2,
    noHandleSignals: true, logger: quiet, taskList: { job: async () => { done += 1; } },
  });
  // Its first seconds are start-up.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const [before, began] = [done, performance.now()];
  await new Promise((resolve) => setTimeout(resolve, Number(amount) * 1000));
  const rate = ((done - before) / (performance.now() - began)) * 1000;
  await runner.stop();
  return rate;
}

const modes = {
  "load": () => load(Number(amount)),
  "ours-sql": () => repeat(ours),
  "graphile-sql": () => repeat(graphile),
  "graphile-client": graphileClient,
};
const rate = await modes[mode]();
if (rate !== undefined) console.log(rate.toFixed(1));
