//! Status and code of every refusal, compared with `problems.txt`. A change to that file changes the API's
//! contract.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::field_error::FieldError;
use bakeoff_lambda::Refusal;
use bakeoff_lambda::database::ConnectionError;
use bakeoff_testkit::event::Service;
use serde_json::Value;
use std::fmt::Write as _;
use time::OffsetDateTime;
use tokio_postgres::Client;

/// Returns the variant's name. Has no wildcard, so that each new variant needs a line in the golden file.
fn name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Operation(error) => match error {
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
            Error::AnotherRunExists(_) => "AnotherRunExists",
            Error::FileNotFound => "FileNotFound",
            Error::KeyNotFound => "KeyNotFound",
            Error::KeyExists => "KeyExists",
            Error::SignatureInvalid(_) => "SignatureInvalid",
            Error::SignerNotAllowed(_) => "SignerNotAllowed",
            Error::RunMismatch { .. } => "RunMismatch",
            Error::Database(_) => "Database",
            Error::Internal(_) => "Internal",
        },
        Refusal::Connection(ConnectionError::NotConfigured(_)) => "NotConfigured",
        Refusal::Connection(ConnectionError::Failed(_)) => "ConnectionFailed",
        Refusal::Malformed(_) => "Malformed",
        Refusal::TooLarge { .. } => "TooLarge",
        Refusal::EncodingUnsupported => "EncodingUnsupported",
        Refusal::NoToken(_) => "NoToken",
        Refusal::NoProof => "NoProof",
        Refusal::NotAnAdmin => "NotAnAdmin",
        Refusal::RangeRequired { .. } => "RangeRequired",
        Refusal::RangeNotSatisfiable { .. } => "RangeNotSatisfiable",
        Refusal::NoSuchRoute => "NoSuchRoute",
        Refusal::TimedOut => "TimedOut",
    }
}

/// Returns one refusal of each kind, except database errors.
fn refusals() -> Vec<Refusal> {
    let errors = [
        Error::Invalid(vec![FieldError::new("/claim_id", "is missing")]),
        Error::ProofInvalid("it was made for another request"),
        Error::ProofStale { server_time: OffsetDateTime::UNIX_EPOCH, clock_offset_s: -90 },
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
        Error::AnotherRunExists(uuid::Uuid::nil()),
        Error::FileNotFound,
        Error::KeyNotFound,
        Error::KeyExists,
        Error::SignatureInvalid("the signature".into()),
        Error::SignerNotAllowed("an unlisted signer".into()),
        Error::RunMismatch { signed: "another".into() },
        Error::Internal("secret".into()),
    ];
    let others = [
        ConnectionError::NotConfigured(Error::Internal("secret".into())).into(),
        ConnectionError::Failed(deadpool_postgres::PoolError::Closed).into(),
        Refusal::Malformed("the body is not JSON".into()),
        Refusal::TooLarge { size: Some(2), limit: 1 },
        Refusal::EncodingUnsupported,
        Refusal::NoToken("the Authorization header is missing"),
        Refusal::NoProof,
        Refusal::NotAnAdmin,
        Refusal::RangeRequired { size: 5_000_000, limit: 4_500_000 },
        Refusal::RangeNotSatisfiable { size: 100 },
        Refusal::NoSuchRoute,
        Refusal::TimedOut,
    ];
    errors.into_iter().map(Refusal::from).chain(others).collect()
}

/// Returns a server error with this SQLSTATE.
async fn server_error(client: &Client, state: &str) -> tokio_postgres::Error {
    let raise = format!("DO $$ BEGIN RAISE 'secret' USING ERRCODE = '{state}'; END $$");
    client.batch_execute(&raise).await.unwrap_err()
}

/// Returns database errors with their SQLSTATE or, for the driver's own errors, a description.
async fn database_errors(service: &Service) -> Vec<(String, tokio_postgres::Error)> {
    let client = service.database.client().await;
    let mut errors = Vec::new();
    for state in [
        "08006", "22012", "23505", "25006", "40001", "40P01", "42P01", "53300", "55P03", "57014", "57P01",
        "57P03", "XX000",
    ] {
        errors.push((state.to_owned(), server_error(&client, state).await));
    }
    let row = client.query_one("SELECT 'text'", &[]).await.unwrap();
    errors.push(("another type".into(), row.try_get::<_, i32>(0).unwrap_err()));
    errors.push(("no such column".into(), row.try_get::<_, &str>("absent").unwrap_err()));
    errors.push(("no row".into(), client.query_one("SELECT WHERE false", &[]).await.unwrap_err()));
    let terminated = service.database.client().await;
    let _ = terminated.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())").await;
    errors.push(("closed".into(), terminated.batch_execute("SELECT").await.unwrap_err()));
    errors
}

#[tokio::test]
async fn every_refusal_has_the_status_and_code_of_the_contract() {
    let service = Service::start().await;
    let mut table = String::new();
    let mut line = |name: &str, refusal: Refusal| {
        let retried = if refusal.is_retryable() { ", retried once" } else { "" };
        let reply = refusal.into_reply();
        let problem: Value = serde_json::from_str(reply.body().unwrap()).unwrap();
        assert_eq!(problem["status"], reply.status());
        assert!(reply.status() < 500 || !problem.to_string().contains("secret"), "{problem}");
        writeln!(table, "{name}: {} {}{retried}", reply.status(), problem["code"].as_str().unwrap()).unwrap();
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
fn a_problem_has_the_members_of_its_kind() {
    let member = |refusal: Refusal, name: &str| {
        let problem: Value = serde_json::from_str(refusal.into_reply().body().unwrap()).unwrap();
        problem[name].clone()
    };
    let stale = Error::ProofStale { server_time: OffsetDateTime::UNIX_EPOCH, clock_offset_s: -90 };
    assert_eq!(member(stale.into(), "server_time"), "1970-01-01T00:00:00Z");
    let mismatch = Error::RunMismatch { signed: "another".into() };
    assert_eq!(member(mismatch.into(), "signed_run_id"), "another");
    let errors =
        Error::Invalid(vec![FieldError::new("/a", "is missing"), FieldError::new("/b", "is missing")]);
    assert_eq!(member(errors.into(), "errors").as_array().unwrap().len(), 2);
}
