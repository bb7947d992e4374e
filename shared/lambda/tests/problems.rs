//! Every refusal's status and code, against `problems.txt`: a change there is a change of the contract.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::field_error::FieldError;
use bakeoff_lambda::Refusal;
use bakeoff_lambda::database::Unreachable;
use bakeoff_testkit::event::Service;
use serde_json::Value;
use std::fmt::Write as _;
use time::OffsetDateTime;
use tokio_postgres::Client;

/// The variant's name. Without a wildcard: a new variant must be given a line in the golden file.
fn name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Refused(error) => match error {
            Error::Invalid(_) => "Invalid",
            Error::ProofInvalid(_) => "ProofInvalid",
            Error::ProofStale { .. } => "ProofStale",
            Error::ProofReplayed => "ProofReplayed",
            Error::TokenInvalid(_) => "TokenInvalid",
            Error::TokenKeyUnknown => "TokenKeyUnknown",
            Error::TokenExpired => "TokenExpired",
            Error::KeyNotAllowed => "KeyNotAllowed",
            Error::RunnerIdTaken => "RunnerIdTaken",
            Error::ClaimLost => "ClaimLost",
            Error::ClaimIdTaken => "ClaimIdTaken",
            Error::RunFinished(_) => "RunFinished",
            Error::RunNotFound => "RunNotFound",
            Error::RunExists => "RunExists",
            Error::KeyNotFound => "KeyNotFound",
            Error::KeyExists => "KeyExists",
            Error::SignatureInvalid(_) => "SignatureInvalid",
            Error::SignerNotAllowed(_) => "SignerNotAllowed",
            Error::RunMismatch { .. } => "RunMismatch",
            Error::Database(_) => "Database",
            Error::Internal(_) => "Internal",
        },
        Refusal::Unreachable(Unreachable::Unconfigured(_)) => "Unconfigured",
        Refusal::Unreachable(Unreachable::Refused(_)) => "Unreachable",
        Refusal::Malformed(_) => "Malformed",
        Refusal::TooLarge { .. } => "TooLarge",
        Refusal::EncodingUnsupported => "EncodingUnsupported",
        Refusal::NoToken(_) => "NoToken",
        Refusal::NoProof => "NoProof",
        Refusal::NotAnAdmin => "NotAnAdmin",
        Refusal::NoSuchRoute => "NoSuchRoute",
        Refusal::TimedOut => "TimedOut",
    }
}

/// One of each, but for the database's errors.
fn refusals() -> Vec<Refusal> {
    let errors = [
        Error::Invalid(vec![FieldError::new("/claim_id", "is missing")]),
        Error::ProofInvalid("it was made for another request"),
        Error::ProofStale { server_time: OffsetDateTime::UNIX_EPOCH },
        Error::ProofReplayed,
        Error::TokenInvalid("it does not parse"),
        Error::TokenKeyUnknown,
        Error::TokenExpired,
        Error::KeyNotAllowed,
        Error::RunnerIdTaken,
        Error::ClaimLost,
        Error::ClaimIdTaken,
        Error::RunFinished("it was cancelled"),
        Error::RunNotFound,
        Error::RunExists,
        Error::KeyNotFound,
        Error::KeyExists,
        Error::SignatureInvalid("the signature".into()),
        Error::SignerNotAllowed("somebody".into()),
        Error::RunMismatch { signed: "another".into() },
        Error::Internal("secret".into()),
    ];
    let others = [
        Unreachable::Unconfigured(Error::Internal("secret".into())).into(),
        Unreachable::Refused(deadpool_postgres::PoolError::Closed).into(),
        Refusal::Malformed("the body is not JSON".into()),
        Refusal::TooLarge { size: Some(2), limit: 1 },
        Refusal::EncodingUnsupported,
        Refusal::NoToken("there is no Authorization header"),
        Refusal::NoProof,
        Refusal::NotAnAdmin,
        Refusal::NoSuchRoute,
        Refusal::TimedOut,
    ];
    errors.into_iter().map(Refusal::from).chain(others).collect()
}

/// The server's own error with this SQLSTATE.
async fn raised(client: &Client, state: &str) -> tokio_postgres::Error {
    let raise = format!("DO $$ BEGIN RAISE 'secret' USING ERRCODE = '{state}'; END $$");
    client.batch_execute(&raise).await.unwrap_err()
}

/// Errors of the database by what tells them apart: the SQLSTATE, or the driver's.
async fn database_errors(service: &Service) -> Vec<(String, tokio_postgres::Error)> {
    let client = service.database.client().await;
    let mut errors = Vec::new();
    for state in [
        "08006", "22012", "23505", "25006", "40001", "40P01", "42P01", "53300", "55P03", "57014", "57P01",
        "57P03", "XX000",
    ] {
        errors.push((state.to_owned(), raised(&client, state).await));
    }
    let row = client.query_one("SELECT 'text'", &[]).await.unwrap();
    errors.push(("another type".into(), row.try_get::<_, i32>(0).unwrap_err()));
    errors.push(("no such column".into(), row.try_get::<_, &str>("absent").unwrap_err()));
    errors.push(("no row".into(), client.query_one("SELECT WHERE false", &[]).await.unwrap_err()));
    let lost = service.database.client().await;
    let _ = lost.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())").await;
    errors.push(("closed".into(), lost.batch_execute("SELECT").await.unwrap_err()));
    errors
}

#[tokio::test]
async fn every_refusal_has_the_status_and_code_of_the_contract() {
    let service = Service::start().await;
    let mut table = String::new();
    let mut line = |name: &str, refusal: Refusal| {
        let again = if refusal.is_worth_another_try() { ", tried again first" } else { "" };
        let reply = refusal.into_reply();
        let problem: Value = serde_json::from_str(reply.body().unwrap()).unwrap();
        assert_eq!(problem["status"], reply.status());
        assert!(reply.status() < 500 || !problem.to_string().contains("secret"), "{problem}");
        writeln!(table, "{name}: {} {}{again}", reply.status(), problem["code"].as_str().unwrap()).unwrap();
    };
    for refusal in refusals() {
        line(name(&refusal), refusal);
    }
    for (state, error) in database_errors(&service).await {
        line(&format!("Database ({state})"), Error::Database(error).into());
    }
    assert_eq!(table, include_str!("problems.txt"));
}

#[test]
fn a_problem_says_what_its_receiver_needs() {
    let member = |refusal: Refusal, name: &str| {
        let problem: Value = serde_json::from_str(refusal.into_reply().body().unwrap()).unwrap();
        problem[name].clone()
    };
    let stale = Error::ProofStale { server_time: OffsetDateTime::UNIX_EPOCH };
    assert_eq!(member(stale.into(), "server_time"), "1970-01-01T00:00:00Z");
    let mismatch = Error::RunMismatch { signed: "another".into() };
    assert_eq!(member(mismatch.into(), "signed_run_id"), "another");
    let errors =
        Error::Invalid(vec![FieldError::new("/a", "is missing"), FieldError::new("/b", "is missing")]);
    assert_eq!(member(errors.into(), "errors").as_array().unwrap().len(), 2);
}
