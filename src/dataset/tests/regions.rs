//! Groups, roles, masks and boxes, and the label table as a whole under generated content.

use image::{GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgba, RgbaImage};
use ndarray::{Array2, array};
use proptest::prelude::*;

use super::*;
use crate::picture::{
    geometry::Geometry,
    preprocess::{Preprocess, Resize},
};

const BOX_TABLE: &str = "file,label,x0,y0,x1,y1\n";

/// Images of 6 x 4 pixels and a table.
fn with_table(table: &str) -> Dataset {
    open(&[
        ("a.png", photo(1)),
        ("b.png", photo(2)),
        ("labels.csv", table.as_bytes().to_vec()),
    ])
}

fn messages(dataset: &Dataset) -> Vec<&str> {
    dataset
        .problems
        .iter()
        .map(|problem| problem.message.as_str())
        .collect()
}

fn bounding_box(x0: f64, y0: f64, x1: f64, y1: f64) -> BoundingBox {
    BoundingBox { x0, y0, x1, y1 }
}

fn rule(width: u32, height: u32, resize: Resize) -> Preprocess {
    Preprocess {
        resize,
        ..Preprocess::plain(width, height)
    }
}

/// Of the first image, on the model's input that the rule makes of it.
fn region(dataset: &Dataset, rule: &Preprocess) -> Result<Option<Array2<u8>>, DatasetError> {
    let geometry = Geometry::new((6, 4), rule);
    let found = dataset.region(0, &geometry, &Limits::default())?;
    Ok(found.map(|inside| inside.mapv(u8::from)))
}

fn png<P: image::PixelWithColorType>(image: &ImageBuffer<P, Vec<P::Subpixel>>) -> Vec<u8>
where
    [P::Subpixel]: image::EncodableLayout,
{
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn groups_and_roles_relate_images_and_boxes_add_up_over_the_rows_of_a_file() {
    let dataset = with_table(
        "role;x0;y0;x1;y1;group;file;label\nwith;0;0;2;2;pair 1;a.png;cat\n;3;1;6;4;;a.png;\nwithout;;;;;pair 1;b.png;cat\n",
    );
    assert_eq!(messages(&dataset), [""; 0]);
    let [a, b] = &dataset.images[..] else {
        panic!("{:?}", dataset.images)
    };
    assert_eq!(
        (a.role.as_deref(), b.role.as_deref()),
        (Some("with"), Some("without"))
    );
    assert_eq!(
        a.boxes,
        [
            bounding_box(0.0, 0.0, 2.0, 2.0),
            bounding_box(3.0, 1.0, 6.0, 4.0)
        ]
    );
    assert_eq!(
        (b.boxes.len(), dataset.boxed(), dataset.labelled()),
        (0, 1, 2)
    );
    assert_eq!(dataset.groups(), BTreeMap::from([("pair 1", vec![0, 1])]));
}

#[test]
fn without_columns_of_labels_the_folders_are_the_labels() {
    let table = b"file,group,role\ndots/a.png,dots,concept\n".to_vec();
    let dataset = open(&[
        ("dots/a.png", photo(1)),
        ("noise/b.png", photo(2)),
        ("labels.csv", table),
    ]);
    assert_eq!(problems(&dataset), []);
    assert_eq!(dataset.source, Source::Folders);
    let names: Vec<_> = dataset
        .images
        .iter()
        .map(|image| &image.truth.names)
        .collect();
    assert_eq!(names, [&["dots"], &["noise"]]);
    assert_eq!(dataset.images[0].role.as_deref(), Some("concept"));
    assert_eq!(dataset.images[1].role, None);
}

#[test]
fn a_bad_box_is_told_with_row_and_column_and_takes_the_boxes_of_its_image_with_it() {
    for (row, told) in [
        (
            "a.png,,0,0,7,4",
            "row 2 below the first line, column x1: 7 lies outside of a.png, which is 6 x 4 pixels",
        ),
        ("a.png,,-1,0,6,4", "column x0: -1 lies outside of a.png"),
        ("a.png,,4,0,4,4", "column x1: 4 is not above x0, which is 4"),
        ("a.png,,0,3,6,1", "column y1: 1 is not above y0, which is 3"),
        ("a.png,,0,NaN,6,4", "column y0: `NaN` is no number"),
        ("a.png,,0,0,6", "column y1: is empty"),
        (
            "a.png,dog,0,0,6,4",
            "row 2 below the first line, column label: differs from an earlier row of a.png",
        ),
    ] {
        let dataset = with_table(&format!(
            "{BOX_TABLE}a.png,cat,0,0,1,1\n{row}\nb.png,cat,1,1,2,2\n"
        ));
        let found = messages(&dataset);
        assert!(
            found.len() == 1 && found[0].contains(told),
            "{told}: {found:?}"
        );
        let kept = if told.contains("differs") { 2 } else { 0 };
        assert_eq!(dataset.images[0].boxes.len(), kept, "{told}");
        assert_eq!(dataset.images[0].truth.names, ["cat"], "{told}");
        assert_eq!(dataset.images[1].boxes.len(), 1, "{told}");
    }
    let dataset = with_table("file,label,x0,y0,y1\na.png,cat,0,0,4\n");
    assert_eq!(
        messages(&dataset)[1..],
        ["boxes are not read: they need the columns x0, y0, x1 and y1, and there is no x1"]
    );
    let dataset = with_table(&format!(
        "file,group\na.png,{}\nb.png,\"x\ny\"\n",
        "g".repeat(257)
    ));
    assert!(
        messages(&dataset)[0]
            .contains("row 1 below the first line, column group: it has 257 bytes")
    );
    assert!(
        messages(&dataset)[1]
            .contains("row 2 below the first line, column group: it has a line break")
    );
}

#[test]
fn boxes_without_end_are_bounded_for_each_image_and_told_once() {
    let rows = "a.png,,0,0,1,1\n".repeat(100_000);
    let dataset = with_table(&format!(
        "{BOX_TABLE}b.png,cat,0,0,6,4\na.png,cat,0,0,1,1\n{rows}"
    ));
    assert_eq!(
        messages(&dataset),
        ["a.png: there are more than 1000 boxes, and none of them counts"]
    );
    let counts: Vec<usize> = dataset
        .images
        .iter()
        .map(|image| image.boxes.len())
        .collect();
    assert_eq!(counts, [0, 1]);
    let faulty = with_table(&format!(
        "{BOX_TABLE}{}",
        "a.png,cat,0,0,9,9\n".repeat(100_000)
    ));
    assert_eq!(faulty.problems.len(), 1002, "{:?}", faulty.problems.last());
}

#[test]
fn the_hash_covers_groups_roles_and_boxes_and_empty_columns_change_nothing() {
    let hash = |columns: &str, fields: &str| {
        with_table(&format!(
            "file,label{columns}\na.png,cat{fields}\nb.png,dog\n"
        ))
        .hash
    };
    let plain = hash("", "");
    assert_eq!(hash(",group,role,x0,y0,x1,y1", ",,,,,,"), plain);
    let hashes = [
        hash(",group", ",one"),
        hash(",role", ",one"),
        hash(",group", ",two"),
        hash(",x0,y0,x1,y1", ",0,0,1,1"),
        hash(",x0,y0,x1,y1", ",0,0,1,1.5"),
        plain.clone(),
    ];
    let distinct: std::collections::BTreeSet<&String> = hashes.iter().collect();
    assert_eq!(distinct.len(), hashes.len());
}

/// The hash as it was before data sets had groups, roles and boxes: jobs that were planned then go
/// on.
#[test]
fn the_hash_of_a_set_without_groups_roles_and_boxes_is_the_one_it_always_had() {
    let dataset = open(&[
        ("a.bmp", b"no image".to_vec()),
        (
            "labels.csv",
            b"file,label,index\na.bmp,tabby|cat,281|282\n".to_vec(),
        ),
    ]);
    let mut hasher = Sha256::new();
    hasher.update(b"a.bmp\0");
    hasher.update(hex(&Sha256::digest(b"no image")));
    hasher.update(b"\0tabby|cat\0\x00281\x00282\0\n");
    assert_eq!(dataset.hash, hex(&hasher.finalize()));
}

#[test]
fn boxes_lie_on_the_models_input_as_its_geometry_places_the_image() {
    let dataset = with_table(&format!("{BOX_TABLE}a.png,cat,0,0,2,2\na.png,,5,3,6,4\n"));
    let same = region(&dataset, &rule(6, 4, Resize::Stretch))
        .unwrap()
        .unwrap();
    assert_eq!(
        same,
        array![
            [1, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 1]
        ]
    );
    let halved = region(&dataset, &rule(3, 2, Resize::Stretch))
        .unwrap()
        .unwrap();
    assert_eq!(halved, array![[1, 0, 0], [0, 0, 1]]);
    let padded = region(&dataset, &rule(6, 6, Resize::Pad)).unwrap().unwrap();
    assert_eq!(padded.row(0).sum() + padded.row(5).sum(), 0, "padding");
    assert_eq!(padded.slice(ndarray::s![1..5, ..]), same);
    let cropped = region(&dataset, &rule(4, 4, Resize::ShortSide(4)))
        .unwrap()
        .unwrap();
    assert_eq!(cropped, same.slice(ndarray::s![.., 1..5]));
    // The second image has neither a mask nor boxes.
    let geometry = Geometry::new((6, 4), &rule(6, 4, Resize::Stretch));
    assert_eq!(
        dataset.region(1, &geometry, &Limits::default()).unwrap(),
        None
    );
}

#[test]
fn a_mask_is_its_pixels_that_are_neither_black_nor_transparent_and_goes_before_boxes() {
    let set = |x: u32, y: u32| x == 5 && y > 1;
    let gray = GrayImage::from_fn(6, 4, |x, y| Luma([u8::from(set(x, y))]));
    let deep = ImageBuffer::from_fn(6, 4, |x, y| Luma([u16::from(set(x, y))]));
    let cut_out = RgbaImage::from_fn(6, 4, |x, y| match (set(x, y), x % 2) {
        (true, _) => Rgba([0, 0, 9, 1]),
        (false, 0) => Rgba([0, 0, 0, 255]),
        (false, _) => Rgba([9, 9, 9, 0]),
    });
    let alpha = ImageBuffer::from_fn(6, 4, |x, y| LumaA([200_u16, u16::from(set(x, y))]));
    for mask in [png(&gray), png(&deep), png(&cut_out), png(&alpha)] {
        let table = format!("{BOX_TABLE}a.png,cat,0,0,1,1\n").into_bytes();
        let (data, photos) = (
            tempfile::tempdir().unwrap(),
            folder(&[
                ("a.png", photo(1)),
                ("masks/a.png", mask),
                ("labels.csv", table),
            ]),
        );
        let dataset = datasets(data.path(), Some(photos.path()))
            .open("photos")
            .unwrap();
        assert_eq!(problems(&dataset), []);
        let found = region(&dataset, &rule(6, 4, Resize::Stretch))
            .unwrap()
            .unwrap();
        assert_eq!(
            found,
            Array2::from_shape_fn((4, 6), |(y, x)| u8::from(set(x as u32, y as u32)))
        );
    }
}

#[test]
fn a_mask_that_does_not_fit_is_a_problem_and_no_region() {
    let small = png(&GrayImage::new(3, 4));
    let mut lossy = Cursor::new(Vec::new());
    GrayImage::new(6, 4)
        .write_to(&mut lossy, ImageFormat::Jpeg)
        .unwrap();
    for (name, mask, told) in [
        ("masks/a.png", small, "is 3 x 4 pixels, and the image 6 x 4"),
        ("masks/a.jpg", lossy.into_inner(), "save it as PNG"),
        ("masks/a.png", b"no image".to_vec(), "cannot be read"),
    ] {
        let dataset = open(&[
            ("x/a.png", photo(1)),
            ("y/b.png", photo(2)),
            (&name.replace('/', "/x/"), mask),
        ]);
        assert_eq!(problems(&dataset), [("x/a.png", "bad_mask")], "{told}");
        assert!(
            messages(&dataset)[0].contains(told),
            "{:?}",
            messages(&dataset)
        );
        assert!(
            region(&dataset, &rule(6, 4, Resize::Stretch)).is_err(),
            "{told}"
        );
    }
}

#[test]
fn a_mask_that_changed_since_the_scan_is_refused() {
    let (data, photos) = (
        tempfile::tempdir().unwrap(),
        folder(&[("a.png", photo(1)), ("masks/a.png", photo(9))]),
    );
    let dataset = datasets(data.path(), Some(photos.path()))
        .open("photos")
        .unwrap();
    fs::write(photos.path().join("masks/a.png"), photo(8)).unwrap();
    assert!(matches!(
        region(&dataset, &rule(6, 4, Resize::Stretch)),
        Err(DatasetError::Changed { .. })
    ));
}

/// A field as spreadsheets write it.
fn quoted(field: &str) -> String {
    format!("\"{}\"", field.replace('"', "\"\""))
}

#[derive(Clone, Debug)]
struct Row {
    file: usize,
    label: String,
    group: String,
    edges: Option<[u8; 4]>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let edges = (0_u8..6, 0_u8..4, 1_u8..=6, 1_u8..=4)
        .prop_map(|(x0, y0, width, height)| [x0, y0, (x0 + width).min(6), (y0 + height).min(4)]);
    let text = "[a-zé ;,\"\t]{0,6}";
    let row = (text, text, proptest::option::of(edges));
    (row.clone(), row).prop_map(|(one, two)| {
        [one, two]
            .into_iter()
            .enumerate()
            .map(|(file, (label, group, edges))| Row {
                file,
                label,
                group,
                edges,
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Encodings, separators, line ends and the order of columns do not matter.
    #[test]
    fn a_table_says_the_same_however_it_is_written(
        rows in rows(),
        order in Just([0, 1, 2, 3, 4, 5, 6, 7]).prop_shuffle(),
        separator in prop::sample::select(vec![",", ";", "\t"]),
        end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        encoding in 0..3,
    ) {
        let names = ["file", "Label", " group", "x0", "y0", "x1", "y1", "unknown"];
        let fields = |row: &Row| {
            let edge = |at: usize| row.edges.map_or(String::new(), |edges| edges[at].to_string());
            let file = ["a.png", "b.png"][row.file].to_owned();
            [file, row.label.clone(), row.group.clone(), edge(0), edge(1), edge(2), edge(3), "?".to_owned()]
        };
        let line = |fields: [String; 8]| order.map(|at| quoted(&fields[at])).join(separator);
        let lines = std::iter::once(line(names.map(str::to_owned)))
            .chain(rows.iter().map(|row| line(fields(row))));
        let text = lines.map(|line| line + end).collect::<String>();
        let marked = format!("\u{feff}{text}");
        let bytes = match encoding {
            0 => text.into_bytes(),
            1 => marked.into_bytes(),
            _ => marked.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        };
        let dataset = open(&[("a.png", photo(1)), ("b.png", photo(2)), ("labels.csv", bytes)]);
        for (row, image) in rows.iter().zip(&dataset.images) {
            let label = Some(row.label.trim()).filter(|label| !label.is_empty());
            prop_assert_eq!(image.truth.names.first().map(String::as_str), label);
            // A tab is a control character.
            let group = row.group.trim();
            let group = Some(group).filter(|group| !group.is_empty() && !group.contains('\t'));
            prop_assert_eq!(image.group.as_deref(), group);
            let edges = row.edges.map(|edges| edges.map(f64::from));
            let found = image.boxes.first().map(|found| [found.x0, found.y0, found.x1, found.y1]);
            prop_assert_eq!(found, edges);
        }
    }

    /// Whatever a table holds, boxes lie in their image, and problems are few and short.
    #[test]
    fn a_table_of_anything_gives_boxes_in_their_image_and_bounded_problems(
        header in prop::sample::subsequence(
            vec!["file", "label", "index", "mask", "group", "role", "x0", "y0", "x1", "y1"], 1..=10
        ).prop_shuffle(),
        rows in prop::collection::vec(
            prop::collection::vec(
                prop_oneof![
                    Just("a.png".to_owned()), Just("b.png".to_owned()),
                    (-2_i8..9).prop_map(|edge| edge.to_string()),
                    any::<f64>().prop_map(|edge| edge.to_string()),
                    any::<String>(),
                ],
                0..12,
            ),
            0..30,
        ),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let lines = rows.iter().map(|row| row.join(","));
        let mut bytes = std::iter::once(header.join(",")).chain(lines).collect::<Vec<_>>().join("\n").into_bytes();
        bytes.extend(rest);
        let dataset = open(&[("a.png", photo(1)), ("b.png", photo(2)), ("labels.csv", bytes)]);
        prop_assert_eq!(files(&dataset), ["a.png", "b.png"]);
        for image in &dataset.images {
            for BoundingBox { x0, y0, x1, y1 } in &image.boxes {
                prop_assert!(0.0 <= *x0 && x0 < x1 && *x1 <= 6.0, "{:?}", image.boxes);
                prop_assert!(0.0 <= *y0 && y0 < y1 && *y1 <= 4.0, "{:?}", image.boxes);
            }
            for text in image.group.iter().chain(&image.role) {
                prop_assert!(text.len() <= 256 && !text.chars().any(char::is_control));
            }
        }
        prop_assert!(dataset.problems.iter().all(|problem| problem.message.len() < 1000));
    }
}
