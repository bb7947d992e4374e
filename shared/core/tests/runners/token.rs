//! Tests of tokens and receipts: which signatures, claims and keys are accepted.

use bakeoff_core::Error;
use bakeoff_core::runners::token::{ServiceKeys, rotate_key_set};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine, SERVICE};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The seed of [`fixture::service_keys`].
const SEED: [u8; 32] = [42; 32];

fn kid() -> String {
    fixture::service_keys().public_keys().next().unwrap().kid().to_owned()
}

fn header() -> Value {
    json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": kid() })
}

fn claims() -> Value {
    let key = Machine::new("bench").public_key();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    json!({
        "iss": SERVICE, "aud": SERVICE, "sub": "bench", "iat": now, "nbf": now, "exp": now + 60,
        "cnf": {
            "jkt": key.key_id().as_str(), "jwk": { "kty": "OKP", "crv": "Ed25519", "x": key.jwk_x() },
        },
        "jti": uuid::Uuid::new_v4(),
    })
}

fn token_with(pointer: &str, value: Value) -> String {
    let mut claims = claims();
    *claims.pointer_mut(pointer).unwrap() = value;
    fixture::jwt(&header(), &claims, &SigningKey::from_bytes(&SEED))
}

fn authenticate(token: &str) -> Result<(), Error> {
    fixture::service_keys().authenticate(SERVICE, token).map(|_| ())
}

#[test]
fn a_token_signed_by_the_service_authenticates_the_runner() {
    let token = fixture::jwt(&header(), &claims(), &SigningKey::from_bytes(&SEED));
    let runner = fixture::service_keys().authenticate(SERVICE, &token).unwrap();
    assert_eq!(runner.runner_id(), "bench");
    assert_eq!(runner.key(), &Machine::new("bench").public_key());
}

#[test]
fn an_expired_token_has_an_error_of_its_own() {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let refused = authenticate(&token_with("/exp", json!(now - 10)));
    assert!(matches!(refused, Err(Error::TokenExpired)), "{refused:?}");
}

#[test]
fn a_token_with_a_wrong_claim_header_or_signature_is_refused() {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let signing = SigningKey::from_bytes(&SEED);
    let with_header = |header: Value| fixture::jwt(&header, &claims(), &signing);
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        fixture::jwt(&header(), &claims, &signing)
    };
    let stranger = Machine::new("stranger");
    let unsigned = {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&json!({ "typ": "at+jwt", "alg": "none", "kid": kid() })), part(&claims()))
    };
    for (why, token) in [
        ("another audience", token_with("/aud", json!("https://other.example"))),
        ("another issuer", token_with("/iss", json!("https://other.example"))),
        ("not yet valid", token_with("/nbf", json!(now + 60))),
        ("no expiry", without("exp")),
        ("no audience", without("aud")),
        ("no subject", without("sub")),
        ("bound to nothing", without("cnf")),
        ("bound to two keys", token_with("/cnf/jkt", json!(stranger.key_id()))),
        ("bound to a weak key", token_with("/cnf/jwk/x", json!(URL_SAFE_NO_PAD.encode([0; 32])))),
        ("another's signature", fixture::jwt(&header(), &claims(), &stranger.key)),
        ("the runner's own signature", fixture::jwt(&header(), &claims(), &Machine::new("bench").key)),
        ("another type", with_header(json!({ "typ": "JWT", "alg": "EdDSA", "kid": kid() }))),
        ("a shared secret", with_header(json!({ "typ": "at+jwt", "alg": "HS256", "kid": kid() }))),
        (
            "an extension",
            with_header(json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": kid(), "crit": ["x"] })),
        ),
        ("unsigned", unsigned),
        ("not a JWT", "x.y.z".to_owned()),
        ("nothing", String::new()),
    ] {
        let refused = authenticate(&token);
        assert!(matches!(refused, Err(Error::TokenInvalid(_))), "{why}: {refused:?}");
    }
}

#[test]
fn an_unknown_kid_has_an_error_of_its_own() {
    for header in [json!({ "typ": "at+jwt", "alg": "EdDSA" }), {
        let mut header = header();
        header["kid"] = json!("rotated");
        header
    }] {
        let refused = authenticate(&fixture::jwt(&header, &claims(), &SigningKey::from_bytes(&SEED)));
        assert!(matches!(refused, Err(Error::TokenKeyUnknown)), "{refused:?}");
    }
}

#[test]
fn a_token_signed_before_a_rotation_still_authenticates() {
    let now = time::OffsetDateTime::now_utc();
    let set = rotate_key_set(&fixture::key_set(SEED), [43; 32], now, time::Duration::HOUR).unwrap();
    let after = ServiceKeys::from_jwk_set(&set).unwrap();
    let token = fixture::jwt(&header(), &claims(), &SigningKey::from_bytes(&SEED));
    assert_eq!(after.authenticate(SERVICE, &token).unwrap().runner_id(), "bench");
    assert_ne!(after.public_keys().next().unwrap().kid(), kid());
}

#[tokio::test]
async fn a_receipt_is_not_accepted_as_a_token_nor_a_token_as_a_receipt() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let job = fixture::claim_next(&client, &runner).await;
    let accepted = fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();

    let keys = fixture::service_keys();
    assert_eq!(keys.verify_receipt(&accepted.receipt).unwrap().run_id, job.run_id);
    let refused = keys.authenticate(SERVICE, &accepted.receipt);
    assert!(matches!(refused, Err(Error::TokenInvalid(_))), "{refused:?}");
    let refused = keys.verify_receipt(&runner.token);
    assert!(matches!(refused, Err(Error::TokenInvalid(_))), "{refused:?}");

    let (signed, _) = accepted.receipt.rsplit_once('.').unwrap();
    let (_, others_signature) = runner.token.rsplit_once('.').unwrap();
    let refused = keys.verify_receipt(&format!("{signed}.{others_signature}"));
    assert!(matches!(refused, Err(Error::TokenInvalid(_))), "{refused:?}");
}

#[test]
fn an_invalid_key_set_is_refused_without_revealing_its_keys() {
    let only_key = |seed| serde_json::from_str::<Value>(&fixture::key_set(seed)).unwrap()["keys"][0].clone();
    let good = only_key(SEED);
    let mut another_public = good.clone();
    another_public["x"] = only_key([1; 32])["x"].clone();
    let mut another_curve = good.clone();
    another_curve["crv"] = json!("Ed448");
    let mut short = good.clone();
    short["d"] = json!("AAAA");
    for set in [
        json!({}),
        json!({ "keys": [] }),
        json!({ "keys": [another_public] }),
        json!({ "keys": [another_curve] }),
        json!({ "keys": [short] }),
        json!({ "keys": [good, {}] }),
    ] {
        let refused = ServiceKeys::from_jwk_set(&set.to_string()).unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains(good["d"].as_str().unwrap()));
    }
    let keys = ServiceKeys::from_jwk_set(&json!({ "keys": [good] }).to_string()).unwrap();
    assert!(!format!("{keys:?}").contains(good["d"].as_str().unwrap()));
}
