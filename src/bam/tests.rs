//! Places and shares in bounds, pixels by closed form, and COCO's outlines as pycocotools reads
//! them.

use std::collections::{BTreeMap, BTreeSet};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{options::Classes, *};
use crate::{
    dataset::{ArchiveLimits, Catalogue, Dataset},
    faults::{Faults, Reader},
    picture::decode::Limits,
    quota::Quota,
};

fn classes(counts: &[(&str, usize)]) -> Classes {
    let mut next = 0..;
    counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), next.by_ref().take(*count).collect()))
        .collect()
}

fn settled(asked: Value, objects: &Classes, scenes: &Classes) -> Result<Options, Faults> {
    let Value::Object(fields) = asked else {
        unreachable!()
    };
    let mut reader = Reader::new(fields);
    let asked = Asked::read(&mut reader);
    let mut faults = reader.finish("is not a parameter");
    let options = asked.settle(objects, scenes, &mut faults);
    faults.settle(()).map(|()| options.unwrap())
}

fn plan_of(asked: Value, objects: &[(&str, usize)], scenes: &[(&str, usize)]) -> Plan {
    let (objects, scenes) = (classes(objects), classes(scenes));
    let options = settled(asked, &objects, &scenes).unwrap();
    Plan::new(options, &objects, &scenes)
}

const ANIMALS: &[(&str, usize)] = &[("bird", 7), ("cat", 1), ("dog", 3)];
const PLACES: &[(&str, usize)] = &[("city", 2), ("forest", 5), ("sea", 1), ("sky", 4)];

#[test]
fn every_pair_has_as_many_pictures_and_as_many_of_them_for_tests() {
    let asked = json!({ "per_pair": 20, "validation": 0.15, "seed": 4, "common_feature": "dog" });
    let plan = plan_of(asked, ANIMALS, PLACES);
    let mut pairs: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
    let of_pairs = |one: &&Composition| one.part != Part::Feature;
    for one in plan.compositions.iter().filter(of_pairs) {
        let counts = pairs
            .entry((one.object_class, one.scene_class))
            .or_default();
        counts.0 += 1;
        counts.1 += usize::from(one.part == Part::Test);
    }
    assert_eq!(pairs.len(), 12);
    assert!(pairs.values().all(|counts| *counts == (20, 3)), "{pairs:?}");
    // Images of a class are used equally often, to within one, and are of their class.
    let uses = |of: fn(&Composition) -> (usize, usize)| {
        let mut uses: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        plan.compositions
            .iter()
            .for_each(|one| *uses.entry(of(one)).or_default() += 1);
        uses
    };
    let objects = uses(|one| (one.object_class, one.object));
    let scenes = uses(|one| (one.scene_class, one.scene));
    assert_eq!((objects.len(), scenes.len()), (11, 12));
    for (class, range) in [(0, 0..7), (1, 7..8), (2, 8..11)] {
        let counts: Vec<usize> = range.map(|image| objects[&(class, image)]).collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
    }
    assert_eq!(plan.objects(), (0..11).collect::<Vec<_>>());
}

#[test]
fn train_and_test_sets_share_no_composition_and_there_is_always_one_of_each() {
    for (per_pair, validation, tests) in [(2, 0.01, 1), (2, 0.99, 1), (10, 0.1, 1), (10, 0.25, 3)] {
        let plan = plan_of(
            json!({ "per_pair": per_pair, "validation": validation, "common_feature": "dog" }),
            ANIMALS,
            PLACES,
        );
        let groups = |set: Set| -> BTreeSet<String> {
            let has = |one: &&Composition| !set.roles(&plan, one).is_empty();
            plan.compositions
                .iter()
                .filter(has)
                .map(|one| plan.group(one))
                .collect()
        };
        let [train, test, feature] = [Set::Objects, Set::Test, Set::Feature].map(groups);
        assert_eq!(test.len(), 12 * tests);
        assert_eq!(train.len(), 12 * (per_pair - tests));
        assert_eq!(feature.len(), per_pair);
        assert!(train.is_disjoint(&test));
        assert!(feature.is_disjoint(&train) && feature.is_disjoint(&test));
        assert_eq!(groups(Set::Scenes), train);
        for count in 1..=4 {
            assert!(groups(Set::Common(count)).is_subset(&train));
        }
    }
}

#[test]
fn the_feature_is_in_exactly_k_scene_classes_and_the_sets_grow() {
    let plan = plan_of(
        json!({ "per_pair": 4, "common_feature": "dog", "scene_classes": ["sea", "city", "sky", "forest"] }),
        ANIMALS,
        PLACES,
    );
    for count in 1..=4 {
        let set = Set::Common(count);
        assert_eq!(set.commonality(&plan), Some(count as f64 / 4.0));
        let (text, files) = table(set, &plan).unwrap();
        let mut rows = csv::Reader::from_reader(text.as_slice());
        let mut by_class: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in rows.records().map(Result::unwrap) {
            let [file, label, group, role, mask] = std::array::from_fn(|at| &row[at]);
            assert_eq!(file, format!("{role}/{group}.png"));
            assert_eq!(mask, format!("masks/{group}.png"));
            assert!(group.starts_with(&format!("{label}/dog_")));
            by_class
                .entry(label.to_owned())
                .or_default()
                .push(role.to_owned());
        }
        let with: BTreeSet<&str> = ["sea", "city", "sky", "forest"][..count]
            .iter()
            .copied()
            .collect();
        assert_eq!(by_class.len(), 4);
        for (class, roles) in by_class {
            let expected = if with.contains(class.as_str()) {
                "with"
            } else {
                "without"
            };
            assert_eq!(roles, vec![expected; 3], "{class} of {count}");
        }
        assert_eq!(files.len(), 2 * 4 * 3);
    }
}

#[test]
fn the_feature_is_tested_in_the_class_that_always_has_it() {
    let without = json!({ "per_pair": 4, "scene_classes": ["sea", "city", "sky", "forest"] });
    let mut asked = without.clone();
    asked["common_feature"] = json!("dog");
    let plan = plan_of(asked, ANIMALS, PLACES);
    let (text, _) = table(Set::Feature, &plan).unwrap();
    let text = String::from_utf8(text).unwrap();
    let expected: Vec<String> = ["with", "without"]
        .into_iter()
        .flat_map(|role| {
            (5..9).map(move |copy| {
                let group = format!("sea/dog_{copy:04}");
                format!("{role}/{group}.png,dog|sea,{group},{role},masks/{group}.png")
            })
        })
        .collect();
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), expected);
    // All other compositions are those of a plan without the feature.
    let mut others = plan.compositions;
    others.retain(|one| one.part != Part::Feature);
    assert_eq!(others, plan_of(without, ANIMALS, PLACES).compositions);
}

#[test]
fn without_a_common_feature_there_are_sets_of_objects_and_of_scenes() {
    let plan = plan_of(json!({ "per_pair": 3 }), ANIMALS, PLACES);
    let names: Vec<String> = Set::all(&plan).into_iter().map(Set::name).collect();
    assert_eq!(names, ["object_train", "scene_train", "test"]);
    let count = |set, label: &str, role: &str| {
        let text = table(set, &plan).unwrap().0;
        let mut rows = csv::Reader::from_reader(text.as_slice());
        let rows = rows.records().map(Result::unwrap);
        rows.filter(|row| (&row[1], &row[3]) == (label, role))
            .count()
    };
    assert_eq!(count(Set::Objects, "dog", "with"), 4 * 2);
    assert_eq!(count(Set::Scenes, "sky", "with"), 3 * 2);
    for role in ["with", "without", "grey"] {
        assert_eq!(count(Set::Test, "dog|sky", role), 1);
    }
    let lines = |set| {
        let text = String::from_utf8(table(set, &plan).unwrap().0).unwrap();
        text.lines().count() - 1
    };
    let found = [Set::Objects, Set::Scenes, Set::Test].map(lines);
    assert_eq!(found, [12 * 2, 12 * 2, 12 * 3]);
}

#[test]
fn all_faults_of_the_options_are_told_at_once() {
    let (objects, mut scenes) = (classes(ANIMALS), classes(PLACES));
    let told = |asked, objects: &Classes, scenes: &Classes| {
        let faults = settled(asked, objects, scenes).unwrap_err();
        faults.lines().collect::<Vec<_>>()
    };
    let asked = json!({
        "common_feature": "dogg", "per_pair": 1, "size": 2000, "object_size": [0.5, 1.5], "scene_crop": 0,
        "validation": 1, "seed": -1, "scene_classes": ["sea", "foresst"], "colour": 1,
    });
    let found = told(asked, &objects, &scenes);
    for (start, with) in [
        ("per_pair: 1", "2 to 10000"),
        ("size: 2000", "16 to 1024"),
        (
            "object_size: [0.5,1.5]",
            "larger object would leave its scene",
        ),
        ("scene_crop: 0", "above 0"),
        ("validation: 1", "below 1"),
        ("seed: -1", "from 0"),
        ("colour: is not a parameter", "seed"),
        (
            "scene_classes: no class is called foresst; did you mean forest?",
            "city",
        ),
        (
            "common_feature: no class is called dogg; did you mean dog?",
            "bird",
        ),
    ] {
        assert!(
            found
                .iter()
                .any(|line| line.starts_with(start) && line.contains(with)),
            "{start}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 9, "{found:#?}");
    scenes.insert("empty".to_owned(), Vec::new());
    scenes.insert("a/b".to_owned(), vec![3]);
    let found = told(json!({}), &classes(&[("dog", 2)]), &scenes);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("object_classes: there are 1 classes: 2 to 99 are used"));
    assert!(
        found[1].contains("class a/b: its name has a slash"),
        "{found:#?}"
    );
    assert!(found[2].contains("class empty has no image"), "{found:#?}");
    let places = classes(&[("Dog", 1), ("sea", 1), ("2024", 1)]);
    let found = told(json!({}), &objects, &places);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("2024: its name is a number"),
        "{found:#?}"
    );
    assert!(found[1].starts_with("scene_classes: dog is a class of objects, too"));
    let many = json!({ "per_pair": 10_000, "size": 16 });
    let many_places: Vec<(String, usize)> = (0..30).map(|at| (format!("s{at}"), 1)).collect();
    let many_places: Vec<(&str, usize)> = many_places
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    let found = told(many, &objects, &classes(&many_places));
    assert_eq!(
        found,
        ["per_pair: 3 x 30 x 10000 pictures are 900000, and 100000 are the most"]
    );
}

proptest! {
    #[test]
    fn objects_and_squares_lie_inside_and_have_the_sizes_that_were_asked_for(
        object in (1_u32..400, 1_u32..400),
        photo in (1_u32..500, 1_u32..500),
        size in 16_u32..300,
        range in (0.01_f64..1.0, 0.01_f64..1.0),
        scene_crop in 0.01_f64..=1.0,
        seed in any::<u64>(),
    ) {
        let range = [range.0.min(range.1), range.0.max(range.1)];
        let plan = plan_of(
            json!({ "per_pair": 3, "size": size, "object_size": range, "scene_crop": scene_crop, "seed": seed }),
            ANIMALS,
            PLACES,
        );
        let cutout = Cutout::new(&RgbaImage::from_pixel(object.0, object.1, Rgba([1, 2, 3, 255]))).unwrap();
        for one in &plan.compositions {
            let [left, top, side] = one.crop(&plan.options, photo);
            prop_assert!(side >= 1 && left + side <= photo.0 && top + side <= photo.1);
            let short = f64::from(photo.0.min(photo.1));
            prop_assert!(f64::from(side) >= (short * scene_crop).floor().max(1.0));
            if scene_crop == 1.0 {
                prop_assert_eq!(side, photo.0.min(photo.1));
            }
            let longer = one.longer_side(&plan.options);
            let (width, height) = cutout.size(longer);
            prop_assert_eq!(width.max(height), longer);
            let share = f64::from(longer) / f64::from(size);
            let rounding = 0.5 / f64::from(size) + 1e-9;
            prop_assert!(share >= range[0] - rounding && (share <= range[1] + rounding || longer == 1));
            let [left, top] = one.corner(&plan.options, (width, height));
            prop_assert!(left + width <= size && top + height <= size);
        }
    }

    #[test]
    fn pixels_are_mixed_by_alpha_and_stay_the_same_elsewhere(
        seed in any::<u64>(),
        object in (1_u32..24, 1_u32..24),
        corner in (0_u32..8, 0_u32..8),
    ) {
        use rand::RngExt;
        let mut random = crate::random::generator(seed, 0);
        let image = RgbaImage::from_fn(object.0, object.1, |_, _| Rgba(random.random()));
        // One corner is always visible, so that the box is that of the whole image.
        let mut image = image;
        image.get_pixel_mut(0, 0).0[3] = 255;
        image.get_pixel_mut(object.0 - 1, object.1 - 1).0[3] = 255;
        let scene = RgbImage::from_fn(32, 32, |_, _| Rgb(random.random()));
        let cutout = Cutout::new(&image).unwrap().resized(object).unwrap();
        let mut pasted = scene.clone();
        cutout.paste(&mut pasted, corner.0, corner.1);
        let mask = cutout.mask(32, corner.0, corner.1);
        for (x, y, found) in pasted.enumerate_pixels() {
            let below = scene.get_pixel(x, y).0;
            let of_object = x.checked_sub(corner.0).zip(y.checked_sub(corner.1));
            let Some((u, v)) = of_object.filter(|(u, v)| *u < object.0 && *v < object.1) else {
                prop_assert_eq!(found.0, below);
                prop_assert_eq!(mask.get_pixel(x, y).0, [0]);
                continue;
            };
            let [r, g, b, a] = image.get_pixel(u, v).0;
            let alpha = if a < 16 { 0.0 } else { f64::from(a) / 255.0 };
            for ((colour, below), found) in [r, g, b].into_iter().zip(below).zip(found.0) {
                let exact = alpha * f64::from(colour) + (1.0 - alpha) * f64::from(below);
                prop_assert!((f64::from(found) - exact).abs() <= 0.5 + 1e-9);
            }
            prop_assert_eq!(mask.get_pixel(x, y).0, [if a < 16 { 0 } else { 255 }]);
        }
    }
}

#[test]
fn transparent_colours_do_not_bleed_into_edges() {
    let image = RgbaImage::from_fn(64, 64, |x, y| match (x, y) {
        (16..48, _) | (_, ..8) => Rgba([0, 0, 200, 255]),
        _ => Rgba([255, 255, 0, 0]),
    });
    let cutout = Cutout::new(&image).unwrap();
    for size in [(21, 21), (64, 64), (150, 150)] {
        let mut pasted = RgbImage::new(160, 160);
        cutout.resized(size).unwrap().paste(&mut pasted, 0, 0);
        for pixel in pasted.pixels() {
            let [r, g, _] = pixel.0;
            assert!(r <= 1 && g <= 1, "{size:?}: {pixel:?}");
        }
        assert_eq!(pasted.get_pixel(size.0 / 2, size.1 / 2).0, [0, 0, 200]);
    }
}

#[test]
fn an_object_is_cut_to_what_is_visible_of_it() {
    let mut image = RgbaImage::new(50, 40);
    assert!(Cutout::new(&image).is_none());
    image.put_pixel(40, 39, Rgba([9, 9, 9, 15]));
    assert!(Cutout::new(&image).is_none(), "faint");
    (10..30).for_each(|x| image.put_pixel(x, 7, Rgba([9, 9, 9, 16])));
    image.put_pixel(12, 11, Rgba([9, 9, 9, 255]));
    let cutout = Cutout::new(&image).unwrap();
    assert_eq!(cutout.size(20), (20, 5));
    assert_eq!(cutout.size(1), (1, 1));
}

/// A folder of objects, one of scenes, and the two as data sets.
struct Material {
    folder: tempfile::TempDir,
    objects: Objects,
    scenes: Scenes,
}

fn save(image: impl Into<DynamicImage>, path: std::path::PathBuf) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image
        .into()
        .save_with_format(path, ImageFormat::Png)
        .unwrap();
}

fn open(folder: &std::path::Path, id: &str) -> std::sync::Arc<Dataset> {
    let limits = ArchiveLimits {
        max_bytes: 0,
        max_files: 0,
        max_sets: 0,
    };
    let scratch = folder.join("scratch");
    let folders = BTreeMap::from([(id.to_owned(), folder.join(id))]);
    let quota = Quota::new(&scratch, u64::MAX);
    let catalogue = Catalogue::new(folders, &scratch, Limits::default(), limits, quota);
    catalogue.open(id).unwrap()
}

fn material() -> Material {
    let folder = tempfile::tempdir().unwrap();
    for (class, colour) in [("cat", [200, 40, 0]), ("dog", [10, 220, 90])] {
        for at in 0..2_u32 {
            let [r, g, b] = colour;
            let disc = RgbaImage::from_fn(40 + 10 * at, 30, |x, y| {
                let far = (f64::from(x) - 20.0).hypot(f64::from(y) - 15.0);
                Rgba([r, g, b, (255.0 * (15.0 - far).clamp(0.0, 1.0)) as u8])
            });
            save(
                disc,
                folder.path().join(format!("objects/{class}/{at}.png")),
            );
        }
    }
    for (class, blue) in [("sea", 250), ("sky", 90), ("city", 10)] {
        for at in 0..2_u32 {
            let photo = RgbImage::from_fn(90, 70 + 30 * at, |x, y| {
                Rgb([(2 * x) as u8, (2 * y) as u8, blue])
            });
            save(
                photo,
                folder.path().join(format!("scenes/{class}/{at}.png")),
            );
        }
    }
    let objects = Objects::Dataset(open(folder.path(), "objects"));
    let scenes = Scenes(open(folder.path(), "scenes"));
    Material {
        folder,
        objects,
        scenes,
    }
}

fn planned(material: &Material, asked: Value) -> Plan {
    let mut faults = Faults::default();
    let objects = material.objects.classes("objects", &mut faults);
    let scenes = material.scenes.classes("scenes", &mut faults);
    assert!(faults.is_empty(), "{faults}");
    Plan::new(
        settled(asked, &objects, &scenes).unwrap(),
        &objects,
        &scenes,
    )
}

fn composed(material: &Material, plan: &Plan, one: &Composition) -> Composed {
    let limits = Limits::default();
    let photo = material.scenes.photo(one.scene, &limits).unwrap();
    compose(
        plan,
        one,
        &material.objects,
        (&material.scenes, &photo),
        &limits,
    )
    .unwrap()
}

#[test]
fn pictures_of_a_composition_differ_where_its_mask_is_and_nowhere_else() {
    let material = material();
    let asked =
        json!({ "per_pair": 4, "size": 96, "common_feature": "dog", "scene_crop": 0.6, "seed": 9 });
    let plan = planned(&material, asked);
    let mut parts: BTreeMap<String, usize> = BTreeMap::new();
    for one in &plan.compositions {
        let made = composed(&material, &plan, one);
        let again = composed(&material, &plan, one);
        assert_eq!((&made.entry, &made.files), (&again.entry, &again.files));
        let read = |role: Role| {
            let name = role.file(&plan, one);
            let file = made.files.iter().find(|(found, _)| *found == name);
            file.map(|(_, bytes)| {
                assert!(bytes.len() as u64 <= greatest_bytes(role, 96));
                image::load_from_memory(bytes).unwrap()
            })
        };
        let with = read(Role::With).unwrap().into_rgb8();
        let mask = read(Role::Mask).unwrap().into_luma8();
        let [left, top, width, height] = made.entry.place;
        for (x, y, value) in mask.enumerate_pixels() {
            let is_inside = (left..left + width).contains(&x) && (top..top + height).contains(&y);
            assert!(is_inside || value.0 == [0]);
        }
        assert!(mask.pixels().filter(|value| value.0 == [255]).count() > 100);
        // The first class has the feature in all of k01, k02, ...
        let is_in_k = plan.object_class(one) == "dog" && one.scene_class > 0;
        assert_eq!(
            read(Role::Without).is_some(),
            is_in_k || one.part != Part::Train
        );
        assert_eq!(read(Role::Grey).is_some(), one.part == Part::Test);
        *parts.entry(format!("{:?}", one.part)).or_insert(0) += 1;
        let (Some(without), Some(grey)) = (read(Role::Without), read(Role::Grey)) else {
            continue;
        };
        let (without, grey) = (without.into_rgb8(), grey.into_rgb8());
        let mut changed = 0;
        for (x, y, value) in mask.enumerate_pixels() {
            if value.0 == [0] {
                assert_eq!(with.get_pixel(x, y), without.get_pixel(x, y));
                assert_eq!(grey.get_pixel(x, y).0, [128; 3]);
            } else {
                changed += usize::from(with.get_pixel(x, y) != without.get_pixel(x, y));
            }
        }
        assert!(changed > 100);
        let (x, y) = (left + width / 2, top + height / 2);
        assert_eq!(
            with.get_pixel(x, y),
            grey.get_pixel(x, y),
            "the object hides its scene"
        );
    }
    let counts: Vec<usize> = parts.into_values().collect();
    assert_eq!(
        counts,
        [4, 6, 18],
        "for the feature, for tests, to train on"
    );
    // Another seed gives other places.
    let other = planned(&material, json!({ "per_pair": 4, "size": 96, "seed": 10 }));
    let places = |plan: &Plan| -> Vec<[u32; 4]> {
        let ones = plan.compositions.iter();
        ones.map(|one| composed(&material, plan, one).entry.place)
            .collect()
    };
    assert_ne!(places(&plan), places(&other));
}

#[test]
fn an_image_that_an_index_labels_lacks_a_name() {
    let folder = tempfile::tempdir().unwrap();
    save(RgbImage::new(8, 8), folder.path().join("scenes/one.png"));
    std::fs::write(
        folder.path().join("scenes/labels.csv"),
        "file,index\none.png,7\n",
    )
    .unwrap();
    let mut faults = Faults::default();
    Scenes(open(folder.path(), "scenes")).classes("scenes", &mut faults);
    let found: Vec<String> = faults.lines().collect();
    assert_eq!(
        found,
        ["scenes: one.png is labelled by an index alone: name its class in a column `label`"]
    );
}

#[test]
fn every_image_that_cannot_be_used_is_told() {
    let material = material();
    let folder = material.folder.path();
    let opaque = RgbImage::new(8, 8);
    save(opaque.clone(), folder.join("objects/dog/opaque.png"));
    save(RgbaImage::new(8, 8), folder.join("objects/dog/nothing.png"));
    save(opaque.clone(), folder.join("objects/loose.png"));
    save(opaque.clone(), folder.join("objects/cat/masked.png"));
    let mut mask = image::GrayImage::new(8, 8);
    mask.put_pixel(3, 4, image::Luma([1]));
    save(mask, folder.join("objects/masks/cat/masked.png"));
    std::fs::write(folder.join("objects/dog/broken.png"), b"no image").unwrap();
    let objects = Objects::Dataset(open(folder, "objects"));
    let mut faults = Faults::default();
    let classes = objects.classes("objects", &mut faults);
    let every: Vec<usize> = classes.values().flatten().copied().collect();
    objects.check(&every, "objects", &Limits::default(), &mut faults);
    let mut found: Vec<String> = faults.lines().collect();
    found.sort();
    assert_eq!(found.len(), 4, "{found:#?}");
    for (line, start) in found.iter().zip([
        "objects: dog/broken.png cannot be read",
        "objects: dog/opaque.png has no transparent pixel and no mask",
        "objects: loose.png has no label",
        "objects: nothing of the object of dog/nothing.png is visible",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    let masked = classes["cat"]
        .iter()
        .find(|at| objects.file(**at) == "cat/masked.png");
    let cutout = objects
        .cutout(*masked.unwrap(), &Limits::default())
        .unwrap();
    assert_eq!(
        cutout
            .mask(4, 0, 0)
            .pixels()
            .filter(|value| value.0 == [255])
            .count(),
        1
    );
}

#[test]
fn noise_compresses_to_no_more_than_is_estimated() {
    use rand::RngExt;
    let mut random = crate::random::generator(1, 0);
    let folder = tempfile::tempdir().unwrap();
    for (object, scene) in [("a", "c"), ("b", "d")] {
        let noise = RgbaImage::from_fn(64, 64, |_, _| Rgba(random.random()));
        save(noise, folder.path().join(format!("objects/{object}/1.png")));
        let noise = RgbImage::from_fn(128, 128, |_, _| Rgb(random.random()));
        save(noise, folder.path().join(format!("scenes/{scene}/1.png")));
    }
    let objects = Objects::Dataset(open(folder.path(), "objects"));
    let scenes = Scenes(open(folder.path(), "scenes"));
    let material = Material {
        folder,
        objects,
        scenes,
    };
    let plan = planned(
        &material,
        json!({ "per_pair": 2, "size": 128, "object_size": [1, 1] }),
    );
    for one in &plan.compositions {
        for (name, bytes) in composed(&material, &plan, one).files {
            let role = Role::ALL
                .into_iter()
                .find(|role| name.starts_with(role.name()));
            let most = greatest_bytes(role.unwrap(), 128);
            assert!(
                bytes.len() as u64 <= most,
                "{name}: {} of {most}",
                bytes.len()
            );
        }
    }
}
