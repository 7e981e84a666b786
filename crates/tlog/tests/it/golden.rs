//! Published values: roots, tiles, bundles and proofs made by other programs.

use std::{convert::Infallible, sync::LazyLock};

use sha2::{Digest, Sha256};
use tlog::{
    Frontier, Hash, LeafIndex, MemoryTree, NodeSource, ProofError, TilePath, TreeSize, consistency_proof,
    decode_bundle, encode_bundle, inclusion_proof, leaf_hash, root_at, tile_paths, verify_consistency,
    verify_inclusion,
};

/// Entries are the decimal digits of their index.
static TREE: LazyLock<MemoryTree> = LazyLock::new(|| (0..70_000).map(leaf).collect());

fn leaf(index: u64) -> Hash {
    leaf_hash(index.to_string().as_bytes())
}

fn root(size: u64) -> Hash {
    root_at(TreeSize::new(size), &*TREE).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Hash::from_bytes(Sha256::digest(bytes).into()).to_hex()
}

/// The bytes at a path, as a log would serve them.
fn served(path: &str) -> Vec<u8> {
    match TilePath::parse(path).unwrap() {
        TilePath::Hash { level, index, width } => {
            let first = index * 256;
            let nodes = first..first + u64::from(width.as_u16());
            nodes
                .flat_map(|node| *TREE.node(8 * level, node).unwrap().as_bytes())
                .collect()
        }
        TilePath::Entries { index, width } => {
            let first = index * 256;
            let entries = first..first + u64::from(width.as_u16());
            encode_bundle(entries.map(|entry| entry.to_string())).unwrap()
        }
    }
}

#[test]
fn roots_are_the_published_ones() {
    for (size, expected) in [
        (0, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
        (1, "2zQm6HgGjSjSabbIcXIyLOU3K2V1bQeJAB00g19gHAM="),
        (2, "ywCYnZSlacCmeK4EK2Pc1GJduWRAUX83put5duok7Us="),
        (3, "cl1SMNto9VdHDcNfHYhlgTrNfrsHrRUndBQd7LrnEyc="),
        (7, "o+I7Msy2v5bQktFl2KpUbgmCnejwOw6JV1gdHha5K98="),
        (255, "Mvhbyqh9e80Fco8J6a66NQumovczgwCH8Fl2goSL5cs="),
        (256, "goUV0DPBnYyQHzfsy4rtkZZncDSG+NL/8c9wQDIcXbE="),
        (257, "HtoEmkNR2G92JSvX7At3Rq11t/oDFq1fVB29pFijEsQ="),
        (65_536, "8CXQbtgEhZ/SdKG9rK3W5I6odjSqkeHtsgFD+UmM0Cs="),
        (70_000, "Gkzfy2Y3SgwNy+9JrL1JdtE+6GT7PLJB/JQ8rQTwL34="),
    ] {
        assert_eq!(root(size).to_base64(), expected, "size {size}");
        let mut frontier = Frontier::new();
        (0..size).for_each(|index| {
            frontier.push(leaf(index));
        });
        assert_eq!(frontier.root().to_base64(), expected, "size {size}, pushed");
    }
}

#[test]
fn tiles_and_bundles_are_the_published_ones() {
    for (path, length, expected) in [
        (
            "tile/0/000",
            8192,
            "b9704a8bfbee2c61185ceb38904a49f3f703c81e194b5b2ccdc254c2bdaaa62b",
        ),
        (
            "tile/1/000",
            8192,
            "ea7b038bc73489c89c31a27ac355aaca65a4ed73f0dd7484e68deb29d30f10a2",
        ),
        (
            "tile/0/273.p/112",
            3584,
            "4d21244557c976993a9a89bf928a46b5a876585228df279878239fd84489e5a5",
        ),
        (
            "tile/1/001.p/17",
            544,
            "adfaca2731630fe7944a4b98a0f98ef3e98685eafda09e6f81070218fb759ce4",
        ),
        (
            "tile/entries/000",
            1170,
            "94693d5c6d6a0355ec07bac8214516c1ce6a5100b0588f226fd95f26571157d7",
        ),
    ] {
        let bytes = served(path);
        assert_eq!(
            (bytes.len(), sha256(&bytes).as_str()),
            (length, expected),
            "{path}"
        );
    }
    let top: [u8; 32] = served("tile/2/000.p/1").try_into().unwrap();
    let expected = "f025d06ed804859fd274a1bdacadd6e48ea87634aa91e1edb20143f9498cd02b";
    assert_eq!(Hash::from_bytes(top).to_hex(), expected);
}

#[test]
fn every_path_of_the_tree_can_be_served() {
    for path in tile_paths(TreeSize::new(70_000)) {
        let bytes = served(&path.to_string());
        if let TilePath::Entries { width, .. } = path {
            assert_eq!(decode_bundle(&bytes, width).flatten().count(), width.as_usize());
        } else {
            assert_eq!(bytes.len(), 32 * path.width().as_usize());
        }
    }
}

#[test]
fn proofs_are_the_published_ones() {
    let size = TreeSize::new(70_000);
    let digest = |proof: &[Hash]| {
        let bytes: Vec<u8> = proof.iter().flat_map(|hash| *hash.as_bytes()).collect();
        (proof.len(), sha256(&bytes))
    };
    for (index, lines, expected) in [
        (
            69_999,
            9,
            "06840adeb9aef6246e85c1dd08b547ca4a0b6f7c20da6a20ceed1be00bebfe4c",
        ),
        (
            12_345,
            17,
            "15e3537b4677d40e7f98553df49a1f00747bdfcd478b0592c64864516e6b1f91",
        ),
    ] {
        let at = LeafIndex::new(index);
        let proof = inclusion_proof(at, size, &*TREE).unwrap();
        assert_eq!(digest(&proof), (lines, expected.to_owned()), "{index}");
        assert_eq!(
            verify_inclusion(&leaf(index), at, size, &proof, &root(70_000)),
            Ok(())
        );
    }
    for (first, second, lines, expected) in [
        (
            1,
            70_000,
            17,
            "834e90bf94e0793f400559c4912e0ea1e6265be0e53eb0ef946aceac71f62881",
        ),
        (
            255,
            257,
            10,
            "9ac0efc5fea9ae47142082cbc6d6f4bbf26473e02b5b92a7c86db20bf77e49bc",
        ),
        (
            256,
            257,
            1,
            "981d45e4e43aa88052c5977a60140d138c34616386a58afd1dd8c3045e7a5a50",
        ),
        (
            65_537,
            70_000,
            15,
            "922bd62cffc6d2c4bba42c338b4d76f3fcf1cb8b8dd3114ff0d8dd9dc7847b4f",
        ),
    ] {
        let (older, newer) = (TreeSize::new(first), TreeSize::new(second));
        let proof = consistency_proof(older, newer, &*TREE).unwrap();
        assert_eq!(
            digest(&proof),
            (lines, expected.to_owned()),
            "{first} to {second}"
        );
        assert_eq!(
            verify_consistency(older, newer, &proof, &root(first), &root(second)),
            Ok(())
        );
    }
}

#[test]
fn tiles_alone_make_the_same_proofs() {
    let source = tlog::TileNodes::new(|level: u8, index: u64| {
        let width = tlog::tile_width(level, index, TreeSize::new(70_000)).unwrap();
        let bytes = served(&TilePath::Hash { level, index, width }.to_string());
        let hashes = bytes.as_chunks::<32>().0.iter().copied().map(Hash::from_bytes);
        Ok::<_, Infallible>(hashes.collect())
    });
    let size = TreeSize::new(70_000);
    for index in (0..70_000).step_by(1777) {
        let index = LeafIndex::new(index);
        let expected = inclusion_proof(index, size, &*TREE).unwrap();
        assert_eq!(inclusion_proof(index, size, &source), Ok(expected));
        let first = TreeSize::new(index.as_u64());
        let expected = consistency_proof(first, size, &*TREE).unwrap();
        assert_eq!(consistency_proof(first, size, &source), Ok(expected));
        assert_eq!(
            Frontier::from_source(first, &source),
            Ok(Frontier::from_source(first, &*TREE).unwrap())
        );
    }
    assert_eq!(root_at(size, &source), Ok(root(70_000)));
}

/// The eight leaves every RFC 6962 implementation is tested with.
#[test]
fn certificate_transparency_roots() {
    let leaves: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let mut frontier = Frontier::new();
    for (entry, expected) in leaves.iter().zip([
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]) {
        frontier.push(leaf_hash(entry));
        assert_eq!(frontier.root().to_hex(), expected);
    }
}

#[test]
fn a_proof_beyond_the_tree_is_refused() {
    let (index, size) = (LeafIndex::new(70_000), TreeSize::new(70_000));
    assert_eq!(
        inclusion_proof(index, size, &*TREE),
        Err(ProofError::IndexBeyondSize { index, size })
    );
}
