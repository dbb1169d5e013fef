//! Members as /db/info shows them (bare numbers above 2^53) and as the gateway shows them (numbers as strings).

use k3s_model::cluster::Member;
use k3s_model::ids::MemberId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    #[serde(rename = "ID")]
    pub id: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub learner: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_false(b: &bool) -> bool {
    !b
}

/// The body of /db/info.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbInfo {
    pub members: Vec<Listed>,
}

impl Listed {
    pub fn from_gateway(member: &Value) -> Option<Self> {
        let texts = |key: &str| -> Vec<String> {
            let urls = member[key].as_array().map(Vec::as_slice).unwrap_or_default();
            urls.iter().filter_map(|u| u.as_str().map(str::to_owned)).collect()
        };
        Some(Self {
            id: member["ID"].as_str()?.parse().ok()?,
            name: member["name"].as_str().unwrap_or_default().to_owned(),
            peer_urls: texts("peerURLs"),
            client_urls: texts("clientURLs"),
            learner: member["isLearner"].as_bool().unwrap_or(false),
        })
    }

    pub fn peer_url(&self) -> &str {
        self.peer_urls.first().map_or("", String::as_str)
    }

    pub fn to_model(&self) -> Member {
        Member {
            id: MemberId(self.id),
            name: Some(self.name.clone()).filter(|n| !n.is_empty()),
            peer_url: self.peer_url().to_owned(),
            learner: self.learner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(path: &str) -> String {
        let root = env!("CARGO_MANIFEST_DIR");
        std::fs::read_to_string(format!("{root}/fixtures/{path}")).unwrap()
    }

    #[test]
    fn every_recorded_member_list_comes_back_unchanged() {
        for case in ["200-one", "200-learner", "200-unstarted", "200-three-voters"] {
            let text = fixture(&format!("db-info/{case}.json"));
            let info: DbInfo = serde_json::from_str(&text).unwrap();
            // the recorder spaced some files; Go's encoder, and ours, put no spaces
            let plain = text.trim().replace(", ", ",").replace(": ", ":");
            assert_eq!(serde_json::to_string(&info).unwrap(), plain, "{case}");
        }
    }

    #[test]
    fn the_gateway_s_strings_become_the_same_members() {
        let gateway: Value = serde_json::from_str(&fixture("gateway/member-list.json")).unwrap();
        let members: Vec<_> =
            gateway["members"].as_array().unwrap().iter().filter_map(Listed::from_gateway).collect();
        let info: DbInfo = serde_json::from_str(&fixture("db-info/200-three-voters.json")).unwrap();
        assert_eq!(members, info.members);
    }
}
