//! Replayed, stale, borrowed and malformed proofs of possession.

use bakeoff_testkit::fixture::{Machine, jwt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::request::{Answer, post};
use crate::target::{Target, target};

fn header(machine: &Machine) -> Value {
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": machine.public_key().jwk_x() });
    json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk })
}

async fn present(target: &Target, machine: &Machine, proof: &str) -> Answer {
    let attempt = post("/api/runners/register").header("dpop", proof).json(&machine.registration());
    attempt.send(target).await
}

async fn assert_invalid(target: &Target, machine: &Machine, why: &str, proof: &str) {
    present(target, machine, proof).await.refused(401, "proof_invalid", why);
}

#[tokio::test]
async fn a_proof_presented_again() {
    let target = target().await;
    let machine = target.allowed("proofs-again").await;
    let proof = machine.proof(&target.proof_claims(&machine));
    present(&target, &machine, &proof).await.success(200);
    for _ in 0..3 {
        present(&target, &machine, &proof).await.refused(401, "proof_replayed", "the same proof");
    }
    // Signed anew over the same jti, with another time: still the proof that was used.
    let mut claims = target.proof_claims(&machine);
    let first = machine.proof(&claims);
    present(&target, &machine, &first).await.success(200);
    claims["iat"] = json!(claims["iat"].as_i64().unwrap() + 1);
    present(&target, &machine, &machine.proof(&claims)).await.refused(401, "proof_replayed", "the same jti");
}

#[tokio::test]
async fn a_proof_presented_thirty_times_at_once() {
    let target = target().await;
    let machine = target.allowed("proofs-at-once").await;
    for _ in 0..3 {
        let proof = machine.proof(&target.proof_claims(&machine));
        let answers = join_all((0..30).map(|_| present(&target, &machine, &proof))).await;
        let accepted = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(accepted, 1);
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            answer.refused(401, "proof_replayed", "one of thirty");
        }
    }
}

/// Sixty seconds either way, by the database's clock. Five seconds of margin for a slow machine.
#[tokio::test]
async fn a_proof_from_another_time() {
    let target = target().await;
    let machine = target.allowed("proofs-time").await;
    for from_now in [-1_000_000_000, -86_400, -65, 65, 86_400, 1_000_000_000] {
        let mut claims = target.proof_claims(&machine);
        claims["iat"] = json!(claims["iat"].as_i64().unwrap() + from_now);
        let answer = present(&target, &machine, &machine.proof(&claims)).await;
        answer.refused(401, "proof_stale", &format!("{from_now} s"));
    }
    for no_time in [json!(-1), json!(1e13), json!("now"), json!(null), json!([]), json!(true)] {
        let mut claims = target.proof_claims(&machine);
        claims["iat"] = no_time.clone();
        assert_invalid(&target, &machine, &no_time.to_string(), &machine.proof(&claims)).await;
    }
}

#[tokio::test]
async fn a_proof_for_another_request() {
    let target = target().await;
    let machine = target.allowed("proofs-request").await;
    let url = target.register_url();
    let authority = target.url.strip_prefix("http://").unwrap();
    let mut bent = vec![];
    for htu in [
        "https://evil.example/api/runners/register".to_owned(),
        format!("https://{authority}/api/runners/register"),
        format!("{url}/"),
        format!("{url}?"),
        format!("{url}?a=b"),
        format!("{url}#"),
        url.to_uppercase(),
        url.replace("register", "regist%65r"),
        format!("{}//api/runners/register", target.url),
        format!("http://user@{authority}/api/runners/register"),
        format!("{}/api/queue/claim", target.url),
        "/api/runners/register".to_owned(),
        target.url.clone(),
        String::new(),
    ] {
        bent.push(("htu", json!(htu)));
    }
    for htm in ["GET", "post", "Post", "POST ", "*", ""] {
        bent.push(("htm", json!(htm)));
    }
    for member in ["htm", "htu"] {
        bent.extend([json!(null), json!(1), json!([url, "POST"])].map(|value| (member, value)));
    }
    for (member, value) in bent {
        let mut claims = target.proof_claims(&machine);
        claims[member] = value.clone();
        assert_invalid(&target, &machine, &format!("{member} {value}"), &machine.proof(&claims)).await;
    }
    for member in ["htm", "htu", "iat", "jti"] {
        let mut claims = target.proof_claims(&machine);
        claims.as_object_mut().unwrap().remove(member);
        assert_invalid(&target, &machine, member, &machine.proof(&claims)).await;
    }
    // The sender chooses these headers; the proof is held against the configured address.
    for name in ["x-forwarded-host", "x-forwarded-proto", "forwarded", "x-original-url"] {
        let mut claims = target.proof_claims(&machine);
        claims["htu"] = json!("https://evil.example/api/runners/register");
        let attempt = post("/api/runners/register")
            .header("dpop", &machine.proof(&claims))
            .header(name, "evil.example")
            .json(&machine.registration());
        attempt.send(&target).await.refused(401, "proof_invalid", name);
    }
}

#[tokio::test]
async fn a_proof_by_another_key_than_it_names() {
    let target = target().await;
    let victim = target.allowed("proofs-victim").await;
    let attacker = target.allowed("proofs-attacker").await;
    let claims = target.proof_claims(&victim);
    // The victim's key in the header, the attacker's signature below.
    assert_invalid(&target, &victim, "signed by another", &jwt(&header(&victim), &claims, &attacker.key))
        .await;
    // A good proof of the attacker's own key, in a registration of the victim's.
    assert_invalid(&target, &victim, "proof of another", &attacker.proof(&claims)).await;
    let mut both = header(&attacker);
    both["kid"] = json!(victim.key_id());
    assert_invalid(&target, &victim, "two keys", &jwt(&both, &claims, &attacker.key)).await;
    let twice = format!(
        r#"{{"typ":"dpop+jwt","alg":"EdDSA","jwk":{},"jwk":{}}}"#,
        header(&victim)["jwk"],
        header(&attacker)["jwk"]
    );
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(twice), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = ed25519_dalek::Signer::sign(&attacker.key, signed.as_bytes()).to_bytes();
    let proof = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert_invalid(&target, &victim, "a jwk twice", &proof).await;
}

#[tokio::test]
async fn a_proof_with_a_key_of_another_kind_or_type() {
    let target = target().await;
    let machine = target.allowed("proofs-kind").await;
    let claims = target.proof_claims(&machine);
    let x = machine.public_key().jwk_x();
    for jwk in [
        json!({ "kty": "RSA", "n": "u1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0_IzW7yWR7Q", "e": "AQAB" }),
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": x }),
        json!({ "kty": "oct", "k": x }),
        json!({ "kty": "OKP", "crv": "X25519", "x": x }),
        json!({ "kty": "OKP", "crv": "Ed448", "x": x }),
        json!({ "kty": "okp", "crv": "ed25519", "x": x }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "d": x }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": format!("{x}=") }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "" }),
        json!({ "kty": "OKP", "crv": "Ed25519" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": [x] }),
        json!(x),
        json!(null),
    ] {
        let mut header = header(&machine);
        header["jwk"] = jwk.clone();
        assert_invalid(&target, &machine, &jwk.to_string(), &jwt(&header, &claims, &machine.key)).await;
    }
    for (member, value) in [
        ("alg", json!("none")),
        ("alg", json!("RS256")),
        ("alg", json!("HS256")),
        ("alg", json!("ES256")),
        ("alg", json!(null)),
        ("typ", json!("JWT")),
        ("typ", json!("at+jwt")),
        ("typ", json!("DPOP+JWT")),
        ("typ", json!(null)),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
    ] {
        let mut header = header(&machine);
        header[member] = value.clone();
        let proof = jwt(&header, &claims, &machine.key);
        assert_invalid(&target, &machine, &format!("{member} {value}"), &proof).await;
    }
    let (_, token) = target.runner("proofs-token").await;
    assert_invalid(&target, &machine, "a token", &token).await;
    let (unsigned, _) = jwt(&header(&machine), &claims, &machine.key)
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    assert_invalid(&target, &machine, "unsigned", &format!("{unsigned}.")).await;
}

#[tokio::test]
async fn a_proof_without_a_usable_jti() {
    let target = target().await;
    let machine = target.allowed("proofs-jti").await;
    for jti in [
        json!(""),
        json!("j".repeat(129)),
        json!("j".repeat(5000)),
        json!("é".repeat(65)),
        json!("a\u{0}b"),
        json!(7),
        json!(null),
        json!(["a"]),
    ] {
        let mut claims = target.proof_claims(&machine);
        claims["jti"] = jti.clone();
        let why = format!("jti {:.60}", jti.to_string());
        assert_invalid(&target, &machine, &why, &machine.proof(&claims)).await;
    }
    let mut claims = target.proof_claims(&machine);
    claims["jti"] = json!("' OR 1=1; --\u{202e}\u{1b}[2J");
    present(&target, &machine, &machine.proof(&claims)).await.success(200);
    present(&target, &machine, &machine.proof(&claims)).await.refused(
        401,
        "proof_replayed",
        "odd, but a jti",
    );
}

#[tokio::test]
async fn two_proofs_or_none() {
    let target = target().await;
    let machine = target.allowed("proofs-two").await;
    let proof = || machine.proof(&target.proof_claims(&machine));
    let body = machine.registration();
    let attempt = post("/api/runners/register").json(&body);
    attempt.clone().send(&target).await.refused(401, "unauthenticated", "none");
    attempt.clone().bearer(&proof()).send(&target).await.refused(401, "unauthenticated", "as a token");
    let two = attempt.header("dpop", &proof()).header("dpop", &proof());
    let answer = two.send(&target).await;
    assert_eq!(answer.status, 401, "{}", answer.text);
}
