//! Failure answers, in the two forms seen: the supervisor's (indented) and the API server's (one line).

use crate::base::web::Answer;
use serde_json::json;

/// As the supervisor port writes them; field order and indentation as recorded.
pub fn supervisor(code: u16, reason: &str, message: &str, cause: Option<&str>) -> Answer {
    let details = cause.map_or_else(String::new, |cause| {
        format!(
            "  \"details\": {{\n    \"causes\": [\n      {{\n        \"message\": {}\n      }}\n    ]\n  }},\n",
            json!(cause)
        )
    });
    Answer::raw_json(
        code,
        format!(
            "{{\n  \"kind\": \"Status\",\n  \"metadata\": {{}},\n  \"status\": \"Failure\",\n  \"message\": {},\n  \"reason\": {},\n{details}  \"code\": {code}\n}}",
            json!(message),
            json!(reason),
        ),
    )
}

pub fn forbidden() -> Answer {
    supervisor(403, "Forbidden", "forbidden", None)
}

pub fn etcd_disabled() -> Answer {
    supervisor(400, "BadRequest", k3s_model::texts::ETCD_DISABLED, None)
}

pub fn not_ready() -> Answer {
    supervisor(503, "ServiceUnavailable", k3s_model::texts::NOT_READY, None)
}

/// /db/info without a list.
pub fn no_member_list(why: &str) -> Answer {
    let cause = format!("{}: {why}", k3s_model::texts::MEMBER_LIST_FAILED);
    supervisor(500, "InternalError", &format!("Internal error occurred: {cause}"), Some(&cause))
}

/// As the API server writes them.
pub fn api(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    Answer::json(code, &status)
}

pub fn unauthorized() -> Answer {
    api(401, "Unauthorized", "Unauthorized")
}

pub fn not_found(plural: &str, name: &str) -> Answer {
    api(404, "NotFound", &format!("{plural} {name:?} not found"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn fixture(path: &str) -> String {
        std::fs::read_to_string(format!("{}/fixtures/db-info/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn recorded_body(path: &str) -> (String, usize) {
        let text = fixture(path).replace('\r', "");
        let (head, body) = text.split_once("\n\n").unwrap();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
        (body.trim_end().to_owned(), length.trim().parse().unwrap())
    }

    #[test]
    fn supervisor_failures_are_the_recorded_bytes() {
        for (path, answer) in
            [("403-remote-without-credentials.http", forbidden()), ("400-sqlite.http", etcd_disabled())]
        {
            let (body, length) = recorded_body(path);
            assert_eq!(String::from_utf8_lossy(&answer.body), body, "{path}");
            assert_eq!(answer.body.len(), length, "{path}");
        }
    }

    #[test]
    fn every_recorded_500_of_db_info_is_the_same_object() {
        for (case, why) in [
            ("500-etcd-not-started", k3s_model::texts::ETCD_NOT_STARTED),
            ("500-learner-refuses", k3s_model::texts::NOT_FOR_LEARNER),
            ("500-no-answer-from-etcd", k3s_model::texts::DEADLINE),
            ("500-no-answer-from-etcd-2", k3s_model::texts::STREAM_CANCELLED),
        ] {
            let ours: Value = serde_json::from_slice(&no_member_list(why).body).unwrap();
            let recorded: Value = serde_json::from_str(&fixture(&format!("{case}.json"))).unwrap();
            assert_eq!(ours, recorded, "{case}");
        }
    }
}
