//! Steps operations on connections of their own from gate to gate, in every order there is.
//!
//! A schedule is a list of choices: which actor goes on. It is run from the start each time, from the same rows;
//! where the last choice had an alternative that was not tried, the next schedule tries it. An actor that waits
//! for a lock of another has no choice to offer until the other commits.

use bakeoff_testkit::Database;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Statement};

/// Gates that an operation may come to, at most.
const GATES: i32 = 32;

/// An operation of an actor, on its connection; its outcome in words.
pub(crate) type Operation =
    Box<dyn FnOnce(Client) -> Pin<Box<dyn Future<Output = (Client, String)> + Send>> + Send>;

/// Where an actor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    NotStarted,
    AtGate(i32),
    Blocked,
    Done,
}

struct Actor {
    pid: i32,
    client: Option<Client>,
    running: Option<JoinHandle<(Client, String)>>,
    position: Position,
    outcome: String,
}

/// A database with gates and the actors on it.
pub(crate) struct Stage {
    pub(crate) database: Database,
    /// The owner's, for what no operation does. Passes every gate.
    pub(crate) client: Client,
    controller: Client,
    /// Lets an actor pass a gate.
    open: Statement,
    /// What actors wait for.
    waits: Statement,
    actors: Vec<Actor>,
}

impl Stage {
    /// An empty database with gates, and so many actors.
    pub(crate) async fn new(actors: usize, gates: &[(&str, &str)]) -> Self {
        let database = Database::create().await;
        let (client, controller) = (database.owner().await, database.client().await);
        client.batch_execute(include_str!("gates.sql")).await.unwrap();
        for (function, before) in gates {
            let put = "SELECT put_gate($1::text::regproc, $2)";
            let put = client.execute(put, &[function, before]).await;
            put.unwrap_or_else(|error| panic!("{:?}", error.as_db_error()));
        }
        let open = controller.prepare("SELECT pg_advisory_unlock($1, $2)").await.unwrap();
        let waits = "SELECT l.pid, l.objsubid = 2 AND l.classid::bigint < 4 AS at_gate, l.objid::bigint, \
                            pg_blocking_pids(l.pid) && $1 \
                     FROM pg_locks l WHERE NOT l.granted AND l.pid = ANY ($1)";
        let waits = controller.prepare(waits).await.unwrap();
        let mut stage = Self { database, client, controller, open, waits, actors: Vec::new() };
        for number in 0..actors {
            let client = stage.database.client().await;
            let set = format!("SET gate.actor = '{number}'");
            client.batch_execute(&set).await.unwrap();
            let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
            stage.actors.push(Actor {
                pid,
                client: Some(client),
                running: None,
                position: Position::NotStarted,
                outcome: String::new(),
            });
        }
        stage
    }

    /// Runs the operations in every order of their steps. `before` puts the rows back, `after` gets the outcomes.
    /// Returns how many orders there are.
    pub(crate) async fn explore(
        &mut self,
        mut before: impl AsyncFnMut(&Client),
        operations: impl Fn() -> Vec<Operation>,
        mut after: impl AsyncFnMut(&Client, &[String], &[usize]),
    ) -> usize {
        let mut prefix: Vec<usize> = Vec::new();
        for count in 1.. {
            before(&self.client).await;
            let (choices, alternatives) = self.run(operations(), &prefix).await;
            let outcomes: Vec<String> = self.actors.iter().map(|actor| actor.outcome.clone()).collect();
            after(&self.client, &outcomes, &choices).await;
            // The last choice that can be made otherwise. Actors are tried in the order of their numbers.
            let last = (0..choices.len())
                .rev()
                .find_map(|at| Some((at, *alternatives[at].iter().find(|actor| **actor > choices[at])?)));
            let Some((at, next)) = last else { return count };
            prefix = choices[..at].to_vec();
            prefix.push(next);
        }
        unreachable!("the counter has no end")
    }

    /// One schedule: the choices that were made, and what could have been chosen.
    async fn run(&mut self, operations: Vec<Operation>, prefix: &[usize]) -> (Vec<usize>, Vec<Vec<usize>>) {
        let arm = "SELECT pg_advisory_unlock_all(); \
                   SELECT pg_advisory_lock(actor, number) \
                   FROM generate_series(0, 3) actor, generate_series(0, 31) number";
        self.controller.batch_execute(arm).await.unwrap();
        let mut operations: Vec<Option<Operation>> = operations.into_iter().map(Some).collect();
        assert_eq!(operations.len(), self.actors.len());
        for actor in &mut self.actors {
            actor.position = Position::NotStarted;
            let client = actor.client.as_ref().unwrap();
            client.batch_execute("SET gate.number = '0'").await.unwrap();
        }
        let (mut choices, mut alternatives) = (Vec::new(), Vec::new());
        while self.actors.iter().any(|actor| actor.position != Position::Done) {
            let enabled: Vec<usize> = (0..self.actors.len())
                .filter(|actor| {
                    matches!(self.actors[*actor].position, Position::NotStarted | Position::AtGate(_))
                })
                .collect();
            if enabled.is_empty() {
                // Each waits for another: Postgres ends one of them after its deadlock_timeout.
                self.settle().await;
                continue;
            }
            let chosen = prefix.get(choices.len()).copied().unwrap_or(enabled[0]);
            assert!(enabled.contains(&chosen), "the same schedule went another way: {choices:?} {enabled:?}");
            choices.push(chosen);
            alternatives.push(enabled);
            match self.actors[chosen].position {
                Position::AtGate(number) => {
                    assert!(number < GATES);
                    self.controller.query_one(&self.open, &[&(chosen as i32), &number]).await.unwrap();
                }
                _ => {
                    let client = self.actors[chosen].client.take().unwrap();
                    let operation = operations[chosen].take().unwrap();
                    self.actors[chosen].running = Some(tokio::spawn(operation(client)));
                }
            }
            // It is running now, wherever it stood before.
            self.actors[chosen].position = Position::Blocked;
            self.settle().await;
        }
        (choices, alternatives)
    }

    /// Waits until each actor that runs has come to a gate, to a lock of another, or to its end.
    async fn settle(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut moving = false;
            let pids: Vec<i32> = self.actors.iter().map(|actor| actor.pid).collect();
            let waits = self.controller.query(&self.waits, &[&pids]).await.unwrap();
            for actor in &mut self.actors {
                let Some(running) = &actor.running else { continue };
                if running.is_finished() {
                    let (client, outcome) = actor.running.take().unwrap().await.unwrap();
                    (actor.client, actor.outcome, actor.position) = (Some(client), outcome, Position::Done);
                    continue;
                }
                let wait = waits.iter().find(|wait| wait.get::<_, i32>(0) == actor.pid);
                match wait {
                    Some(wait) if wait.get::<_, Option<bool>>(1) == Some(true) => {
                        actor.position = Position::AtGate(wait.get::<_, i64>(2) as i32);
                    }
                    Some(wait) if wait.get(3) => actor.position = Position::Blocked,
                    _ => moving = true,
                }
            }
            // Two that wait for each other count as moving: one of them will.
            let stuck = self.actors.iter().all(|actor| {
                matches!(actor.position, Position::Blocked | Position::Done)
                    && actor.position != Position::NotStarted
            }) && self.actors.iter().any(|actor| actor.position == Position::Blocked);
            if !moving && !stuck {
                return;
            }
            assert!(Instant::now() < until, "an actor comes to no gate and to no end");
            if stuck {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Copies of tables, to put their rows back: the table's name, and its columns that can be written.
#[derive(Default)]
pub(crate) struct Saved(Vec<(&'static str, String)>);

impl Saved {
    pub(crate) async fn of(client: &Client, tables: &[&'static str]) -> Self {
        let mut saved = Vec::new();
        for table in tables {
            client.batch_execute(&format!("CREATE TABLE saved_{table} AS TABLE {table}")).await.unwrap();
            let columns = "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                            WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''";
            saved.push((*table, client.query_one(columns, &[table]).await.unwrap().get(0)));
        }
        Self(saved)
    }

    /// Without triggers and foreign keys: rows go and come back in any order, and what refers to them stays.
    pub(crate) async fn restore(&self, client: &Client) {
        let mut script = "BEGIN; SET LOCAL session_replication_role = replica;".to_owned();
        for (table, columns) in &self.0 {
            script += &format!(
                "DELETE FROM {table}; INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE \
                 SELECT {columns} FROM saved_{table};"
            );
        }
        // Time has passed since; a lease that had not run out must not have now.
        script += "UPDATE run_queue SET lease_expires_at = now() + interval '5 min' \
                    WHERE lease_expires_at > now(); COMMIT;";
        client.batch_execute(&script).await.unwrap_or_else(|error| panic!("{:?}", error.as_db_error()));
    }
}
