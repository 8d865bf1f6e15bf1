//! The manifests, rendered and checked.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::image::{self, DROP_IN};
use crate::manifests::{Kind, Manifests, checkout, list, named, text};

/// The versions of Kubernetes with image volumes, which deploy/sunk needs, and the older ones for deploy/slinky.
const VERSIONS: [(Kind, &[&str]); 2] = [(Kind::Sunk, &["1.35", "1.37"]), (Kind::Slinky, &["1.29", "1.37"])];

/// All containers of a pod.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["spec"]["initContainers"]).iter().chain(list(&pod["spec"]["containers"]))
}

/// The parsed text of a ConfigMap's key.
fn parsed(objects: &[Value], key: &str) -> Value {
    let data = objects.iter().find_map(|object| object["data"][key].as_str()).expect("the key is in a ConfigMap");
    serde_json::from_str(data).unwrap()
}

#[test]
fn the_manifests_render_and_no_placeholder_stays() {
    let Some(manifests) = Manifests::fill("manifests render", &[]) else { return };
    for kind in Kind::BOTH {
        let objects = manifests.objects(kind);
        for name in fs::read_dir(manifests.path(kind, "")).unwrap().map(|entry| entry.unwrap().file_name()) {
            let name = name.to_string_lossy().into_owned();
            let content = fs::read_to_string(manifests.path(kind, &name)).unwrap();
            let is_left = name != "README.md" && content.contains('<');
            assert!(!is_left, "{name} has a placeholder that site.sed does not know");
            // enroot and Slurm skip the last line of a file without one.
            assert!(content.ends_with('\n'), "{name} does not end with a newline");
        }
        for object in &objects {
            assert_eq!(object["kind"], "ConfigMap");
            assert_eq!(object["metadata"]["namespace"], "tenant-slurm");
            assert!(object.to_string().len() < 1 << 20, "a ConfigMap holds 1 MiB");
        }
    }
    let application = fs::read_to_string(manifests.path(Kind::Sunk, "application.yaml")).unwrap();
    let application = manifests.yaml(&application).remove(0);
    let path = text(&application["spec"]["source"]["path"]).to_owned();
    assert!(checkout().join(&path).join("kustomization.yaml").exists(), "Argo CD finds nothing in {path}");
    assert_eq!(application["spec"]["destination"]["namespace"], "tenant-slurm");
}

#[test]
fn the_pages_name_files_that_are_there() {
    for kind in Kind::BOTH {
        let folder = checkout().join("deploy").join(kind.folder());
        let page = fs::read_to_string(folder.join("README.md")).unwrap();
        let links: Vec<&str> = page.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(links.len() > 5);
        for link in links {
            assert!(folder.join(link).exists(), "{}: {link}", kind.folder());
        }
    }
}

#[test]
fn pods_and_objects_are_what_kubernetes_takes() {
    let Some(manifests) = Manifests::fill("Kubernetes' schemas", &[]) else { return };
    for (kind, versions) in VERSIONS {
        let all: Vec<Value> = manifests.pods(kind).into_iter().chain(manifests.objects(kind)).collect();
        for version in versions {
            manifests.check(version, &all);
        }
    }
}

#[test]
fn every_mount_has_its_volume_and_every_file_its_key() {
    let Some(manifests) = Manifests::fill("mounts and volumes", &[]) else { return };
    for kind in Kind::BOTH {
        let objects = manifests.objects(kind);
        for pod in manifests.pods(kind) {
            let pod_name = text(&pod["metadata"]["name"]);
            let names: Vec<&str> = list(&pod["spec"]["volumes"]).iter().map(|volume| text(&volume["name"])).collect();
            let unique: BTreeSet<&str> = names.iter().copied().collect();
            assert_eq!(names.len(), unique.len(), "{pod_name}: {names:?}");
            let mut used = BTreeSet::new();
            for container in containers(&pod) {
                let mut paths = BTreeSet::new();
                for mount in list(&container["volumeMounts"]) {
                    let name = text(&mount["name"]);
                    let volume = named(&pod["spec"]["volumes"], name);
                    let volume = volume.unwrap_or_else(|| panic!("{pod_name}: no volume {name}"));
                    used.insert(name);
                    assert!(paths.insert(text(&mount["mountPath"])), "{pod_name}: {mount} hides another");
                    if name.starts_with("gcp-wif") {
                        check_config_map(pod_name, mount, volume, &objects);
                    }
                }
            }
            assert_eq!(used, unique, "{pod_name}: a volume that nothing mounts");
        }
    }
}

/// A ConfigMap of ours is one that the Kustomization makes, and a file of it has its key.
fn check_config_map(pod: &str, mount: &Value, volume: &Value, objects: &[Value]) {
    let Some(name) = volume["configMap"]["name"].as_str() else { return };
    let map = objects.iter().find(|object| object["metadata"]["name"] == name);
    let map = map.unwrap_or_else(|| panic!("{pod}: no ConfigMap {name}"));
    if let Some(key) = mount["subPath"].as_str() {
        assert!(map["data"][key].is_string(), "{pod}: {name} has no {key}");
    }
    assert_eq!(mount["readOnly"], true, "{pod}: {mount}");
    assert_eq!(volume["configMap"]["defaultMode"], 0o444, "{pod}: {volume}");
}

#[test]
fn token_and_configuration_name_the_same_provider_and_the_same_paths() {
    let Some(manifests) = Manifests::fill("audiences", &[]) else { return };
    let mut seen = Vec::new();
    for kind in Kind::BOTH {
        let objects = manifests.objects(kind);
        let [pod, login] = manifests.pods(kind);
        let trust = parsed(&objects, "credential-configuration.json");
        let config = parsed(&objects, "gcp-wif.json");
        let volume = named(&pod["spec"]["volumes"], "gcp-wif-token").expect("a volume with the token");
        let projected = &volume["projected"];
        let token = &projected["sources"][0]["serviceAccountToken"];
        assert_eq!(text(&token["audience"]), format!("https:{}", text(&trust["audience"])));
        assert_eq!(projected["defaultMode"], 0o400, "the subject token is root's alone");
        assert!(token["expirationSeconds"].as_u64().unwrap() >= 3600);

        let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
        let at = |name: &str| text(&named(mounts, name).unwrap_or_else(|| panic!("no mount {name}"))["mountPath"]);
        let file = format!("{}/{}", at("gcp-wif-token"), text(&token["path"]));
        assert_eq!(text(&trust["credential_source"]["file"]), file);
        let path = format!("{}/credential-configuration.json", at("gcp-wif-config"));
        assert_eq!(text(&config["credential_configuration"]), path);
        assert_eq!(text(&config["command"]), format!("{}/gcp-wif", at("gcp-wif-files")));
        assert_eq!(at("gcp-wif-runtime"), "/run/gcp-wif");
        assert!(named(mounts, "gcp-wif-config").unwrap()["subPath"].is_null(), "a subPath follows no change");
        assert_eq!(pod["spec"]["securityContext"]["sysctls"][0]["value"], "1024");

        let drop_in = image::drop_in();
        assert!(drop_in.contains(&format!(" {}/spank_gcp_wif.so", at("gcp-wif-files"))), "{drop_in}");
        assert!(drop_in.contains(&format!(" config={}/gcp-wif.json", at("gcp-wif-config"))), "{drop_in}");
        for secret in ["gcp-wif-token", "gcp-wif-runtime", "gcp-wif-config"] {
            assert!(named(&login["spec"]["volumes"], secret).is_none(), "login nodes need no {secret}");
        }
        seen.push(trust);
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn the_plugin_comes_before_pyxis() {
    let Some(manifests) = Manifests::fill("order of plugins", &[]) else { return };
    let directory = format!("{}/*", DROP_IN.rsplit_once('/').unwrap().0);
    let values = manifests.values(Kind::Slinky);
    let lines: Vec<&str> = text(&values["configFiles"]["plugstack.conf"]).lines().collect();
    assert_eq!(lines, [&format!("include {directory}"), "include /usr/share/pyxis/*"]);
    // On SUNK it is the file's name that decides.
    for pod in manifests.pods(Kind::Sunk) {
        let mount = named(&pod["spec"]["containers"][0]["volumeMounts"], "gcp-wif-plugstack").unwrap();
        assert!(text(&mount["mountPath"]) < "/etc/slurm/plugstack.conf.d/pyxis.conf");
    }
    let objects = manifests.objects(Kind::Sunk);
    let included = objects.iter().find_map(|object| object["data"]["10-gcp-wif.conf"].as_str());
    assert_eq!(included, Some(format!("include {directory}\n").as_str()));
}
