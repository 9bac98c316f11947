//! Tokens of service accounts: asked for, reviewed, and checked by others with the keys that are published.
//!
//! They are signed (RS256) and bound as Kubernetes binds them: to the account's UID and, if asked for, to a pod's; a
//! review fails when either is gone. What a review says of a token that it does not believe is taken from the recorded
//! answers.

use std::sync::OnceLock;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::fields;
use super::request::{Request, User};
use super::state::{State, timestamp};
use super::status::{Cause, Status};
use super::store::{ObjectKey, ResourceKey};

/// Who issues the tokens, and the audience of those that are meant for the API server itself.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// How long a token lasts when nobody says.
const DEFAULT_SECONDS: i64 = 3600;

/// The shortest that may be asked for.
const SHORTEST_SECONDS: i64 = 600;

/// The key of one server, made when it is first needed.
#[derive(Default)]
pub(super) struct Tokens(OnceLock<Keys>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

struct Keys {
    signing: EncodingKey,
    verifying: DecodingKey,
    id: String,
    modulus: String,
    exponent: String,
}

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Disbelief {
    /// It is none of ours.
    Foreign,
    /// It was, but.
    But(String),
}

impl std::fmt::Display for Disbelief {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign => write!(f, "invalid bearer token"),
            Self::But(why) => write!(f, "[invalid bearer token, {why}]"),
        }
    }
}

impl Tokens {
    fn keys(&self) -> &Keys {
        self.0.get_or_init(|| {
            let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("an RSA key can be made");
            let signing = EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).expect("a key that was just made");
            let jwk = Jwk::from_encoding_key(&signing, Algorithm::RS256).expect("an RSA key has components");
            let AlgorithmParameters::RSA(public) = jwk.algorithm else { panic!("an RSA key is an RSA key") };
            let verifying = DecodingKey::from_rsa_components(&public.n, &public.e).expect("components make a key");
            let id = public.n.chars().take(43).collect();
            Keys { signing, verifying, id, modulus: public.n, exponent: public.e }
        })
    }

    /// The keys that others check tokens with (RFC 7517).
    pub(super) fn published(&self) -> Value {
        let keys = self.keys();
        let key = json!({
            "use": "sig",
            "kty": "RSA",
            "kid": keys.id,
            "alg": "RS256",
            "n": keys.modulus,
            "e": keys.exponent,
        });
        json!({"keys": [key]})
    }

    fn sign(&self, claims: &Value) -> String {
        let keys = self.keys();
        let header = Header { kid: Some(keys.id.clone()), typ: None, ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, claims, &keys.signing).expect("claims can be signed")
    }

    /// The claims of a token of ours, whatever its age and audience.
    fn read(&self, token: &str) -> Option<Value> {
        let mut validation = Validation::new(Algorithm::RS256);
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation.set_issuer(&[ISSUER]);
        jsonwebtoken::decode::<Value>(token, &self.keys().verifying, &validation).ok().map(|decoded| decoded.claims)
    }
}

/// Where the keys are found (OpenID Connect Discovery).
pub(super) fn openid_configuration(address: &str) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("https://{address}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
}

/// Answers a `TokenRequest`: a token for the service account of the path.
pub(super) fn request(state: &State, request: &Request) -> Result<Value, Status> {
    let mut answer = request.object()?;
    let account = account(state, &request.namespace, &request.name);
    let account = account.ok_or_else(|| Status::not_found(&request.kind, &request.name))?;
    let seconds = answer["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if seconds < SHORTEST_SECONDS {
        let why = "may not specify a duration less than 10 minutes";
        let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), why);
        return Err(Status::invalid(&request.kind, &request.name, &[cause]));
    }
    let audiences = texts(&answer["spec"]["audiences"]);
    let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
    let bound = answer["spec"]["boundObjectRef"].clone();
    let pod = bound_pod(state, request, &bound)?;
    let now = state.now();
    let until = now + time::Duration::seconds(seconds);
    let mut kubernetes = json!({
        "namespace": request.namespace,
        "serviceaccount": {"name": request.name, "uid": account["metadata"]["uid"]},
    });
    if let Some(pod) = &pod {
        kubernetes["pod"] = json!({"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
    }
    let claims = json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{}:{}", request.namespace, request.name),
        "aud": audiences,
        "iat": now.unix_timestamp(),
        "nbf": now.unix_timestamp(),
        "exp": until.unix_timestamp(),
        "jti": state.uuid(),
        "kubernetes.io": kubernetes,
    });
    let metadata = json!({
        "name": request.name,
        "namespace": request.namespace,
        "uid": account["metadata"]["uid"],
        "creationTimestamp": timestamp(now),
    });
    answer["metadata"] = metadata;
    fields::written(state, request, None, &mut answer);
    answer["spec"] = json!({"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound});
    answer["status"] = json!({"token": state.tokens.sign(&claims), "expirationTimestamp": timestamp(until)});
    answer["kind"] = json!("TokenRequest");
    answer["apiVersion"] = json!("authentication.k8s.io/v1");
    Ok(answer)
}

/// Answers a `TokenReview`.
pub(super) fn review(state: &State, request: &Request, mut review: Value) -> Value {
    fields::written(state, request, None, &mut review);
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let wanted = texts(&review["spec"]["audiences"]);
    let wanted = if wanted.is_empty() { vec![ISSUER.to_owned()] } else { wanted };
    review["status"] = match believe(state, token, &wanted) {
        Ok((user, audiences)) => json!({"authenticated": true, "user": user.to_value(), "audiences": audiences}),
        Err(disbelief) => json!({"user": {}, "error": disbelief.to_string()}),
    };
    review
}

/// Who a token for the API server itself stands for.
pub(super) fn authenticate(state: &State, token: &str) -> Option<User> {
    believe(state, token, &[ISSUER.to_owned()]).ok().map(|(user, _)| user)
}

/// Whom a token stands for, and for which of these audiences.
fn believe(state: &State, token: &str, wanted: &[String]) -> Result<(User, Vec<String>), Disbelief> {
    let claims = state.tokens.read(token).ok_or(Disbelief::Foreign)?;
    let meant = texts(&claims["aud"]);
    let audiences: Vec<String> = wanted.iter().filter(|audience| meant.contains(audience)).cloned().collect();
    if audiences.is_empty() {
        let quoted = |names: &[String]| format!("{names:?}").replace(", ", " ");
        let (meant, wanted) = (quoted(&meant), quoted(wanted));
        let why = format!("token audiences {meant} is invalid for the target audiences {wanted}");
        return Err(Disbelief::But(why));
    }
    if claims["exp"].as_i64().unwrap_or_default() <= state.now().unix_timestamp() {
        return Err(Disbelief::But("service account token has expired".to_owned()));
    }
    let kubernetes = &claims["kubernetes.io"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&kubernetes["namespace"]), text(&kubernetes["serviceaccount"]["name"]));
    let is_the_same = |object: &Value, said: &Value| object["metadata"]["uid"] == said["uid"];
    let account = account(state, &namespace, &name);
    account
        .filter(|account| is_the_same(account, &kubernetes["serviceaccount"]))
        .ok_or_else(|| Disbelief::But(format!("serviceaccounts {name:?} not found")))?;
    let mut extra = [("credential-id", vec![format!("JTI={}", text(&claims["jti"]))])].to_vec();
    if let Some(said) = kubernetes.get("pod") {
        let pod = object(state, "pods", &namespace, &text(&said["name"])).filter(|pod| is_the_same(pod, said));
        pod.ok_or_else(|| Disbelief::But(format!("pods {} not found", said["name"])))?;
        extra.push(("pod-name", vec![text(&said["name"])]));
        extra.push(("pod-uid", vec![text(&said["uid"])]));
    }
    let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
    let user = User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid: Some(text(&kubernetes["serviceaccount"]["uid"])),
        groups: groups.map(str::to_owned).to_vec(),
        extra: extra.into_iter().map(|(key, is)| (format!("authentication.kubernetes.io/{key}"), is)).collect(),
    };
    Ok((user, audiences))
}

fn bound_pod(state: &State, request: &Request, bound: &Value) -> Result<Option<Value>, Status> {
    if bound["kind"] != "Pod" {
        return Ok(None);
    }
    let name = bound["name"].as_str().unwrap_or_default();
    let found = object(state, "pods", &request.namespace, name);
    let found = found.filter(|pod| bound["uid"].is_null() || pod["metadata"]["uid"] == bound["uid"]);
    let kind = state.world().catalogue.resource("", "v1", "pods");
    match (found, kind) {
        (Some(pod), _) => Ok(Some(pod)),
        (None, Some(kind)) => Err(Status::not_found(&kind, name)),
        (None, None) => Err(Status::internal("there are no pods")),
    }
}

fn account(state: &State, namespace: &str, name: &str) -> Option<Value> {
    object(state, "serviceaccounts", namespace, name)
}

fn object(state: &State, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    let resource = ResourceKey { group: String::new(), plural: plural.to_owned() };
    let key = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
    state.world().store.get(&resource, &key).map(|object| Value::clone(&object))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
