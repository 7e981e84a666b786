//! Merkle-log maths and wire formats, over bytes.
//!
//! In scope: RFC 6962 hashing and proofs, C2SP tiles and entry bundles,
//! checkpoints, signed notes and their keys, `.tlog-proof` files.
//!
//! Out of scope: what a leaf says (crate `evidence`), where bytes are kept
//! (`store`), who must have cosigned (a policy counts what
//! [`Note::verify`] returns). There is no I/O here, no clock, no randomness, no
//! logging and no recursion; every input has a named limit and none panics.
//!
//! Where to start: [`Frontier`] grows a tree, [`inclusion_proof`] and
//! [`verify_inclusion`] are the two sides of a proof, [`Checkpoint`] is what is
//! signed, [`TlogProof`] puts them together for an outsider.
//!
//! Rules: RFC 6962 and 9162, section 2.1; C2SP signed-note 1.0.0,
//! tlog-checkpoint 1.0.0, tlog-cosignature 1.0.1, tlog-tiles 0.1.0, tlog-proof
//! draft.

mod bundle;
mod checkpoint;
mod frontier;
mod hash;
mod key;
mod note;
mod proof_file;
mod prove;
mod signer;
mod size;
mod text;
mod tile;
mod tile_nodes;
mod tree;
mod verify;

pub use bundle::{
    BUNDLE_BYTES_MAX, BundleEntries, BundleError, ENTRY_BYTES_MAX, decode_bundle, encode_bundle, push_entry,
};
pub use checkpoint::{Checkpoint, CheckpointError, OpenedCheckpoint};
pub use frontier::{Frontier, FrontierError};
pub use hash::{HASH_BYTES, Hash, HashTextError, empty_root, leaf_hash, node_hash};
pub use key::{KEY_NAME_BYTES_MAX, KeyError, KeyId, KeyKind, VerifierKey};
pub use note::{NOTE_BYTES_MAX, Note, NoteError, SIGNATURE_LINES_MAX, SignatureLine, Verified};
pub use proof_file::{EXTRA_BYTES_MAX, TLOG_PROOF_BYTES_MAX, TlogProof, TlogProofError};
pub use prove::{ProofError, consistency_proof, inclusion_proof, root_at};
pub use signer::SignerKey;
pub use size::{LeafIndex, PROOF_HASHES_MAX, TREE_SIZE_MAX, TreeSize};
pub use tile::{
    TILE_HASHES, TILE_PATH_BYTES_MAX, TilePath, TilePathError, TileWidth, tile_paths, tile_width,
};
pub use tile_nodes::{TileNodes, TileNodesError};
pub use tree::{MemoryTree, NodeMissing, NodeSource};
pub use verify::{verify_consistency, verify_inclusion};
