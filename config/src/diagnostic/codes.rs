//! Every kind of finding, in one table.
//!
//! A code is a promise: it is never given to something else, so that people can search for it and programs can tell
//! findings apart. `L00` is said while reading, `L01` about one value, `L02` about several documents together, `L03`
//! about what Leno does not do yet.

use super::Severity;

/// One kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// `L0012`
    pub id: &'static str,
    /// What it is about, in a few words.
    pub title: &'static str,
    /// How grave it is.
    pub severity: Severity,
}

macro_rules! codes {
    ($($name:ident = $id:literal $severity:ident $title:literal;)+) => {
        $(
            #[doc = concat!("`", $id, "`: ", $title, ".")]
            pub const $name: Code = Code { id: $id, title: $title, severity: Severity::$severity };
        )+
        /// All of them, by their number.
        pub const ALL: &[Code] = &[$($name),+];
    };
}

codes! {
    ENCODING = "L0001" Error "text that is not UTF-8";
    SYNTAX = "L0002" Error "text that is not YAML";
    TOO_LARGE = "L0003" Error "a document that is too large, too deep or grows too much";
    DUPLICATE_KEY = "L0004" Error "a key that stands twice";
    UNKNOWN_FIELD = "L0005" Error "a field that the kind does not have";
    WRONG_TYPE = "L0006" Error "a value of another type";
    UNKNOWN_WORD = "L0007" Error "a word that the field does not know";
    NOT_A_RESOURCE = "L0008" Error "a document without kind, version or spec";
    RESOURCE_NAME = "L0009" Error "a resource without a proper name";
    DUPLICATE_RESOURCE = "L0010" Error "a resource that is defined twice";
    UNSUPPORTED_KIND = "L0011" Warning "a kind that Leno does not know";
    UNKNOWN_VERSION = "L0012" Error "a version that the kind does not have";
    MORE = "L0013" Warning "more findings than are shown";

    REQUIRED = "L0101" Error "something is missing";
    EXCLUSIVE = "L0102" Error "fields that exclude each other";
    HOST = "L0103" Error "a host that is none";
    PORT = "L0104" Error "a port that is none";
    DURATION = "L0105" Error "a duration that is none or out of range";
    PERCENTAGE = "L0106" Error "a percentage that is none";
    WEIGHT = "L0107" Error "weights that cannot be";
    REGEX = "L0108" Error "a regular expression that does not compile";
    HEADER = "L0109" Error "a header that is none";
    STATUS = "L0110" Error "a status that cannot be used here";
    MATCH = "L0111" Error "a condition that cannot be";
    PATH = "L0112" Error "a path or rewrite that cannot be";
    RETRY = "L0113" Error "a retry condition that is none";
    LABEL = "L0114" Error "a label that is none";
    ADDRESS = "L0115" Error "an address that is none";
    NUMBER = "L0116" Error "a number that is out of range";
    PROTOCOL = "L0117" Error "a protocol that is none";
    DUPLICATE_NAME = "L0118" Error "a name that stands twice";
    EXPORT_TO = "L0119" Error "a namespace that is none";
    LOCALITY = "L0120" Error "a locality rule that cannot be";
    DEPRECATED = "L0121" Warning "a field that is going away";
    NO_EFFECT = "L0122" Warning "something that has no effect";
    TLS = "L0123" Error "TLS settings that do not fit together";
    RESOLUTION = "L0124" Error "endpoints that do not fit the resolution";
    POLICY = "L0125" Error "a policy that cannot be";
    TOKEN = "L0126" Error "a rule on tokens that cannot be";
    LOOPHOLE = "L0127" Warning "a policy that protects less than it seems";
    IDENTITY = "L0128" Warning "an identity that nobody has";
    LOG_FORMAT = "L0129" Error "a form of log lines that cannot be";

    UNKNOWN_HOST = "L0201" Warning "a host that no service has";
    UNKNOWN_SUBSET = "L0202" Error "a subset that no DestinationRule defines";
    UNKNOWN_PORT = "L0203" Error "a port that the service does not have";
    UNREACHABLE = "L0204" Warning "a rule that no request reaches";
    DUPLICATE_MATCH = "L0205" Warning "a condition that stood before";
    CONFLICT = "L0206" Warning "a rule that another one hides";
    DELEGATE = "L0207" Error "a delegation that does not work";
    NO_TLS_MODE = "L0208" Warning "an identity that is not used";
    EMPTY_SUBSET = "L0209" Warning "a subset without endpoints";
    UNKNOWN_DELEGATE = "L0210" Warning "a delegate that is not there";
    HTTP_ON_TCP = "L0211" Warning "a condition on requests at a port that carries bytes";
    NO_TOKENS = "L0212" Warning "a condition on tokens that nobody verifies";
    OUTSIDE = "L0213" Warning "an endpoint of the mesh in a service outside of it";
    NOT_MESH_WIDE = "L0214" Warning "a rule for one namespace that looks meant for the mesh";

    NOT_ENFORCED = "L0301" Warning "something that the proxy does not act on yet";
    CANNOT_PROTECT = "L0302" Error "a protection that this version cannot give";
    ALWAYS_REFUSED = "L0303" Warning "requests that are refused whatever they bring";
}
