//! YAML documents as JSON values: config.yaml and manifests.

use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

#[derive(Debug, thiserror::Error)]
pub enum BadYaml {
    #[error("not YAML: {0}")]
    Syntax(String),
    #[error("a mapping key is not a scalar")]
    Key,
    #[error("aliases and out-of-range numbers are not read by the stand-in")]
    Unsupported,
}

/// Every document that is not empty.
pub fn documents(text: &str) -> Result<Vec<Value>, BadYaml> {
    let docs = YamlLoader::load_from_str(text).map_err(|e| BadYaml::Syntax(e.to_string()))?;
    docs.iter().filter(|doc| !matches!(doc, Yaml::Null | Yaml::BadValue)).map(value).collect()
}

fn value(yaml: &Yaml) -> Result<Value, BadYaml> {
    Ok(match yaml {
        Yaml::Real(text) => {
            let number = text.parse().ok().and_then(serde_json::Number::from_f64);
            number.map(Value::Number).ok_or(BadYaml::Unsupported)?
        }
        Yaml::Integer(n) => Value::from(*n),
        Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Boolean(b) => Value::from(*b),
        Yaml::Array(items) => Value::Array(items.iter().map(value).collect::<Result<_, _>>()?),
        Yaml::Hash(hash) => {
            let mut map = Map::new();
            for (key, item) in hash {
                map.insert(scalar(key).ok_or(BadYaml::Key)?, value(item)?);
            }
            Value::Object(map)
        }
        Yaml::Null => Value::Null,
        Yaml::Alias(_) | Yaml::BadValue => return Err(BadYaml::Unsupported),
    })
}

fn scalar(yaml: &Yaml) -> Option<String> {
    match yaml {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(n) => Some(n.to_string()),
        Yaml::Boolean(b) => Some(b.to_string()),
        Yaml::Array(_) | Yaml::Hash(_) | Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_config_and_a_manifest_read_as_json() {
        let config = "cluster-init: true\ntls-san:\n  - a\n  - 10.0.0.1\nnode-label+: x=y\n";
        let want = json!({"cluster-init": true, "tls-san": ["a", "10.0.0.1"], "node-label+": "x=y"});
        assert_eq!(documents(config).unwrap(), [want]);
        assert_eq!(documents("---\na: 1\n---\n---\nb: [x]\n").unwrap().len(), 2);
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(documents("a: [").is_err());
    }
}
