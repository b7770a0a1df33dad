//! The replies about TLS and AUTH (RFC 3207 4, RFC 4954 4 and 6).

use crate::reply::{Enhanced, Reply};

/// 220 to STARTTLS: the handshake follows.
pub fn ready_for_tls() -> Reply {
    Reply::new(220, Enhanced(2, 0, 0), "ready to start TLS")
}

/// 554: octets stood behind STARTTLS that would have been taken for what is said under TLS (CVE-2011-0411); closes.
pub fn injected_before_tls() -> Reply {
    Reply::new(
        554,
        Enhanced(5, 5, 1),
        "octets behind STARTTLS, closing connection",
    )
}

/// 530: this host wants TLS first (RFC 3207 4).
pub fn tls_required() -> Reply {
    Reply::new(530, Enhanced(5, 7, 0), "send STARTTLS first")
}

/// 530: this host wants to know who it is first (RFC 4954 6).
pub fn authentication_required() -> Reply {
    Reply::new(530, Enhanced(5, 7, 0), "authentication required")
}

/// 235: the client is who it says.
pub fn authenticated() -> Reply {
    Reply::new(235, Enhanced(2, 7, 0), "authentication succeeded")
}

/// 535: the credentials are wrong.
pub fn bad_credentials() -> Reply {
    Reply::new(535, Enhanced(5, 7, 8), "authentication credentials invalid")
}

/// 454: who it is cannot be found out now.
pub fn authentication_unavailable() -> Reply {
    Reply::new(
        454,
        Enhanced(4, 7, 0),
        "temporary authentication failure, try again later",
    )
}

/// 501: the client gave up the exchange.
pub fn authentication_cancelled() -> Reply {
    Reply::new(501, Enhanced(5, 7, 0), "authentication cancelled")
}

/// 501: a response that is not base64.
pub fn bad_base64() -> Reply {
    Reply::new(501, Enhanced(5, 5, 2), "not base64")
}

/// 501: a response that is not what the mechanism prescribes (RFC 4954 4).
pub fn malformed_response() -> Reply {
    Reply::new(501, Enhanced(5, 5, 2), "malformed authentication response")
}

/// 500: a response of more octets than RFC 4954 4 allows.
pub fn response_too_long() -> Reply {
    Reply::new(500, Enhanced(5, 5, 6), "authentication response too long")
}

/// 504: the mechanism is not offered.
pub fn unknown_mechanism() -> Reply {
    Reply::new(
        504,
        Enhanced(5, 5, 4),
        "authentication mechanism not offered",
    )
}

/// 538: the mechanism is offered under TLS only.
pub fn encryption_required() -> Reply {
    Reply::new(
        538,
        Enhanced(5, 7, 11),
        "encryption required for this authentication mechanism",
    )
}

/// 421: too many credentials that are wrong; closes.
pub fn too_many_attempts(hostname: &str) -> Reply {
    Reply::new(
        421,
        Enhanced(4, 7, 0),
        format!("{hostname} too many failed authentications, closing connection"),
    )
}
