//! Forged, bent, borrowed and outlived tokens.

use bakeoff_testkit::fixture::{Machine, jwt};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::request::{Answer, get};
use crate::target::{Target, target};

fn header(target: &Target) -> Value {
    json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": target.kid })
}

/// The claims of a good token for the machine.
fn claims(target: &Target, machine: &Machine) -> Value {
    let key = machine.public_key();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    json!({
        "iss": target.url, "aud": target.url, "sub": machine.name, "iat": now, "nbf": now, "exp": now + 600,
        "cnf": {
            "jkt": key.key_id().as_str(), "jwk": { "kty": "OKP", "crv": "Ed25519", "x": key.jwk_x() },
        },
        "jti": Uuid::new_v4(),
    })
}

fn with(mut document: Value, member: &str, value: Value) -> Value {
    document[member] = value;
    document
}

fn without(mut document: Value, member: &str) -> Value {
    document.as_object_mut().unwrap().remove(member);
    document
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

async fn present(target: &Target, token: &str) -> Answer {
    get(&format!("/api/queue/{}", Uuid::new_v4())).bearer(token).send(target).await
}

/// The token is good: the function went on to look for the run.
async fn assert_accepted(target: &Target, token: &str) {
    present(target, token).await.refused(404, "run_not_found", "a good token");
}

async fn assert_refused(target: &Target, why: &str, token: &str) {
    present(target, token).await.refused(401, "token_invalid", why);
}

#[tokio::test]
async fn an_unsigned_token() {
    let target = target().await;
    let (machine, token) = target.runner("tokens-unsigned").await;
    assert_accepted(&target, &token).await;
    let (_, signature) = token.rsplit_once('.').unwrap();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let signed = format!(
            "{}.{}",
            part(&with(header(&target), "alg", json!(alg))),
            part(&claims(&target, &machine))
        );
        for token in [format!("{signed}."), signed.clone(), format!("{signed}.{signature}")] {
            assert_refused(&target, alg, &token).await;
        }
    }
}

#[tokio::test]
async fn a_token_whose_mac_is_keyed_with_the_public_key() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-hmac").await;
    let jwk = get("/api/jwks.json").send(&target).await.success(200)["keys"][0].clone();
    let x = jwk["x"].as_str().unwrap();
    let raw = URL_SAFE_NO_PAD.decode(x).unwrap();
    let der = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".as_slice(), &raw].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
    let keys = [raw, x.into(), der, pem.trim().into(), pem.into(), jwk.to_string().into(), Vec::new()];
    for key in keys {
        for alg in ["HS256", "EdDSA"] {
            let header = with(header(&target), "alg", json!(alg));
            let signed = format!("{}.{}", part(&header), part(&claims(&target, &machine)));
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(signed.as_bytes());
            let mac = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
            assert_refused(&target, alg, &format!("{signed}.{mac}")).await;
        }
    }
}

#[tokio::test]
async fn a_token_that_names_the_key_to_verify_it_with() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-jwk").await;
    let own = SigningKey::from_bytes(&[66; 32]);
    let x = URL_SAFE_NO_PAD.encode(own.verifying_key().as_bytes());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "mine", "use": "sig", "alg": "EdDSA" });
    let url = format!("{}/api/jwks.json", target.url);
    for (member, value) in [
        ("jwk", jwk.clone()),
        ("jwks", json!({ "keys": [jwk] })),
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("x5c", json!([STANDARD.encode([0x30, 0x00])])),
        ("x5t#S256", json!(x)),
    ] {
        for kid in [Some(target.kid.as_str()), Some("mine"), None] {
            let mut header = with(header(&target), member, value.clone());
            header["kid"] = json!(kid);
            assert_refused(&target, member, &jwt(&header, &claims(&target, &machine), &own)).await;
        }
    }
}

#[tokio::test]
async fn a_token_whose_kid_is_a_path_a_query_or_no_text() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-kid").await;
    for kid in [
        json!("../../../../dev/null"),
        json!("/proc/self/environ"),
        json!("' OR '1'='1"),
        json!("http://127.0.0.1/key"),
        json!("\u{0}"),
        json!(format!("{}\u{0}", target.kid)),
        json!(target.kid.to_lowercase()),
        json!(""),
        json!(0),
        json!([target.kid]),
        json!({ "kid": target.kid }),
        json!("k".repeat(5000)),
    ] {
        let header = with(header(&target), "kid", kid.clone());
        let token = jwt(&header, &claims(&target, &machine), &target.service_key);
        assert_refused(&target, &format!("kid {:.60}", kid.to_string()), &token).await;
    }
}

#[tokio::test]
async fn a_token_with_extensions_that_must_be_understood() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-crit").await;
    for crit in [json!(["exp"]), json!(["b64"]), json!(["x"]), json!([]), json!("exp")] {
        let header = with(with(header(&target), "crit", crit), "b64", json!(false));
        let token = jwt(&header, &claims(&target, &machine), &target.service_key);
        assert_refused(&target, "crit", &token).await;
    }
}

#[tokio::test]
async fn a_token_of_another_type_or_algorithm() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-typ").await;
    let claims = claims(&target, &machine);
    let mut headers = vec![without(header(&target), "typ"), without(header(&target), "alg")];
    for typ in ["JWT", "jwt", "AT+JWT", "dpop+jwt", "bakeoff-receipt+jwt", "id_token", "at+jwt ", ""] {
        headers.push(with(header(&target), "typ", json!(typ)));
    }
    for alg in ["ES256", "ES384", "RS256", "PS512", "HS512", "Ed448", "eddsa", "EdDSA ", "HS256"] {
        headers.push(with(header(&target), "alg", json!(alg)));
    }
    headers.push(with(header(&target), "typ", json!(["at+jwt"])));
    headers.push(json!([]));
    headers.push(json!("at+jwt"));
    for header in headers {
        assert_refused(&target, &header.to_string(), &jwt(&header, &claims, &target.service_key)).await;
    }
    // A header that says a member twice: two readers could take different ones.
    for twice in [
        format!(r#"{{"typ":"JWT","typ":"at+jwt","alg":"EdDSA","kid":"{}"}}"#, target.kid),
        format!(r#"{{"typ":"at+jwt","alg":"none","alg":"EdDSA","kid":"{}"}}"#, target.kid),
    ] {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(&twice), part(&claims));
        let signature = target.service_key.sign(signed.as_bytes()).to_bytes();
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert_refused(&target, &twice, &token).await;
    }
}

#[tokio::test]
async fn a_token_for_somebody_else_or_without_limits() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-claims").await;
    let claims = claims(&target, &machine);
    assert_accepted(&target, &jwt(&header(&target), &claims, &target.service_key)).await;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let (other, stranger) = ("https://queue.example.org", Machine::new("tokens-stranger").public_key());
    let mut bent: Vec<Value> = ["iss", "aud", "sub", "exp", "nbf", "cnf", "iat", "jti"]
        .iter()
        .map(|member| without(claims.clone(), member))
        .collect();
    for (member, value) in [
        ("iss", json!(other)),
        ("iss", json!(format!("{}/", target.url))),
        ("iss", json!([target.url, other])),
        ("aud", json!(other)),
        ("aud", json!([other])),
        ("aud", json!([])),
        ("aud", json!("")),
        ("aud", json!(target.url.to_uppercase())),
        ("exp", json!("9999999999")),
        ("exp", json!(null)),
        ("exp", json!(1e300)),
        ("exp", json!(-1)),
        ("nbf", json!(now + 60)),
        ("nbf", json!("0")),
        ("sub", json!(null)),
        ("sub", json!(["a", "b"])),
        ("cnf", json!({})),
        ("cnf", json!({ "jkt": stranger.key_id().as_str(), "jwk": claims["cnf"]["jwk"] })),
        ("cnf", json!({ "jkt": claims["cnf"]["jkt"], "jwk": { "kty": "OKP", "crv": "Ed25519", "x": "" } })),
    ] {
        bent.push(with(claims.clone(), member, value));
    }
    bent.extend([json!([]), json!("claims"), json!(null)]);
    for claims in bent {
        let token = jwt(&header(&target), &claims, &target.service_key);
        let answer = present(&target, &token).await;
        assert_eq!(answer.status, 401, "{claims}: {}", answer.text);
    }
}

/// Five seconds of leeway for clocks that differ, and no more. Two seconds of margin for a slow machine.
#[tokio::test]
async fn a_token_from_just_outside_its_time() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-leeway").await;
    let token = |member: &str, from_now: i64| {
        let at = OffsetDateTime::now_utc().unix_timestamp() + from_now;
        jwt(&header(&target), &with(claims(&target, &machine), member, json!(at)), &target.service_key)
    };
    assert_accepted(&target, &token("exp", -2)).await;
    present(&target, &token("exp", -7)).await.refused(401, "token_expired", "expired");
    assert_accepted(&target, &token("nbf", 4)).await;
    assert_refused(&target, "not yet valid", &token("nbf", 9)).await;
}

#[tokio::test]
async fn a_token_with_another_spelling_of_its_signature() {
    /// The order of the group (RFC 8032 section 5.1), little-endian.
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let target = target().await;
    let (_, token) = target.runner("tokens-malleable").await;
    let (signed, encoded) = token.rsplit_once('.').unwrap();
    let signature: [u8; 64] = URL_SAFE_NO_PAD.decode(encoded).unwrap().try_into().unwrap();
    let mut plus_l = signature;
    let mut carry = 0;
    for (byte, order) in plus_l[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    let mut high_bit = signature;
    high_bit[63] |= 0x80;
    let mut neutral = [0; 64];
    neutral[0] = 1;
    let mut longer = signature.to_vec();
    longer.push(0);
    let spellings = [plus_l.to_vec(), high_bit.to_vec(), neutral.to_vec(), vec![0; 64], longer];
    let mut encodings: Vec<String> = spellings.iter().map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).collect();
    encodings.push(URL_SAFE_NO_PAD.encode(&signature[..63]));
    encodings.push(format!("{encoded}=="));
    encodings.push(format!("{encoded}A"));
    encodings.push(format!("{encoded}.{encoded}"));
    // 64 bytes leave four unused bits in the last character; one spelling has them zero.
    let last = encoded.chars().last().unwrap();
    let unused = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = unused.chars().cycle().skip_while(|c| *c != last).nth(1).unwrap();
    encodings.push(format!("{}{next}", &encoded[..encoded.len() - 1]));
    for encoding in encodings {
        assert_refused(&target, &encoding, &format!("{signed}.{encoding}")).await;
    }
}

#[tokio::test]
async fn a_token_with_another_runners_name_pasted_in() {
    let target = target().await;
    let (machine, token) = target.runner("tokens-pasted").await;
    let (_, victims) = target.runner("tokens-victim").await;
    let parts: Vec<&str> = token.split('.').collect();
    let victims: Vec<&str> = victims.split('.').collect();
    assert_refused(&target, "their claims", &[parts[0], victims[1], parts[2]].join(".")).await;
    assert_refused(&target, "their signature", &[parts[0], parts[1], victims[2]].join(".")).await;
    let renamed = part(&with(claims(&target, &machine), "sub", json!("tokens-victim")));
    assert_refused(&target, "another name", &[parts[0], &renamed, parts[2]].join(".")).await;
    let own = jwt(&header(&target), &claims(&target, &machine), &machine.key);
    assert_refused(&target, "the runner's own signature", &own).await;
}

#[tokio::test]
async fn a_token_that_the_same_key_signed_for_another_use() {
    let target = target().await;
    let (machine, _) = target.runner("tokens-other-use").await;
    let receipt = json!({ "typ": "bakeoff-receipt+jwt", "alg": "EdDSA", "kid": target.kid });
    let receipt = jwt(&receipt, &claims(&target, &machine), &target.service_key);
    assert_refused(&target, "a receipt", &receipt).await;
    let proof = machine.proof(&target.proof_claims(&machine));
    assert_refused(&target, "a proof", &proof).await;
}

#[tokio::test]
async fn a_token_anywhere_but_in_one_authorization_header() {
    let target = target().await;
    let (_, token) = target.runner("tokens-elsewhere").await;
    let path = format!("/api/queue/{}", Uuid::new_v4());
    let elsewhere = [
        get(&format!("{path}?access_token={token}")),
        get(&path).header("cookie", &format!("authorization=Bearer {token}; token={token}")),
        get(&path).header("x-authorization", &format!("Bearer {token}")),
        get(&path).header("proxy-authorization", &format!("Bearer {token}")),
        get(&path).header("authorization", &token),
        get(&path).header("authorization", &format!("DPoP {token}")),
        get(&path).header("authorization", &format!("Basic {}", STANDARD.encode(&token))),
        get(&path).header("authorization", &format!("Bearer\t{token}")),
    ];
    for attempt in elsewhere {
        let why = format!("{attempt:?}");
        attempt.send(&target).await.refused(401, "unauthenticated", &why);
    }
    // Two headers: a proxy may have checked the other one.
    for (first, second) in [("nonsense", token.as_str()), (token.as_str(), "nonsense"), (&*token, &*token)] {
        let attempt = get(&path).bearer(first).bearer(second);
        let answer = attempt.send(&target).await;
        assert_eq!(answer.status, 401, "{}", answer.text);
    }
}
