//! `RequestAuthentication`: which tokens of end users a workload verifies.
//!
//! Fields and names are those of Istio's `security/v1beta1/request_authentication.proto`.

use super::common::{message, words};
use super::{DurationText, LabelSelector, PolicyTargetReference};

message! {
    /// Which tokens a workload verifies.
    pub struct RequestAuthentication {
        /// Which workloads of the namespace; absent or empty: all of them, in the root namespace all of the mesh.
        pub selector: Option<LabelSelector>,
        /// Deprecated: one of `targetRefs`.
        pub target_ref: Option<PolicyTargetReference>,
        /// Gateways and waypoints, in place of workloads.
        pub target_refs: Vec<PolicyTargetReference>,
        /// Issuers, of whom a request may bring a token.
        pub jwt_rules: Vec<JwtRule>,
    }

    /// An issuer of tokens.
    pub struct JwtRule {
        /// `iss` of its tokens.
        pub issuer: String,
        /// One of them is in `aud`; empty: any.
        pub audiences: Vec<String>,
        /// Where its keys are fetched.
        pub jwks_uri: Option<String>,
        /// Its keys themselves, a JSON Web Key Set.
        pub jwks: Option<String>,
        /// Headers that may carry the token; without any place: `Authorization: Bearer` and `?access_token=`.
        pub from_headers: Vec<TokenHeader>,
        /// Query parameters that may carry the token.
        pub from_params: Vec<String>,
        /// Cookies that may carry the token.
        pub from_cookies: Vec<String>,
        /// Receives the payload in base64url.
        pub output_payload_to_header: Option<String>,
        /// The token goes on to the app.
        pub forward_original_token: Option<bool>,
        /// Receive single claims.
        pub output_claim_to_headers: Vec<ClaimToHeader>,
        /// For one fetch of the keys; 5 s by default.
        pub timeout: Option<DurationText>,
        /// Claims that are lists of words with spaces between them, besides `scope` and `permission`.
        pub space_delimited_claims: Vec<String>,
        /// Whether a request without a token passes.
        pub presence: Option<TokenPresence>,
    }

    /// A header that may carry a token.
    pub struct TokenHeader {
        /// Its name.
        pub name: String,
        /// What stands before the token, as `Bearer `.
        pub prefix: Option<String>,
    }

    /// A header made of a claim.
    pub struct ClaimToHeader {
        /// Its name.
        pub header: String,
        /// The claim.
        pub claim: String,
    }
}

words! {
    /// Whether a request without a token passes.
    pub enum TokenPresence {
        /// It does.
        #[default]
        Optional = "OPTIONAL",
        /// It is refused.
        Required = "REQUIRED",
    }
}

impl RequestAuthentication {
    /// Whether it is for gateways and waypoints, not for sidecars.
    pub fn has_targets(&self) -> bool {
        self.target_ref.is_some() || !self.target_refs.is_empty()
    }
}
