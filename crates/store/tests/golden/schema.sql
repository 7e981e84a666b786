CREATE TABLE ledgers (
  ledger_no  INTEGER PRIMARY KEY,
  tenant_no  INTEGER NOT NULL,
  tenant_id  TEXT NOT NULL,
  epoch      INTEGER NOT NULL,
  origin     TEXT NOT NULL UNIQUE,
  vkey       TEXT NOT NULL,
  UNIQUE (tenant_no, epoch)
) STRICT;
CREATE TABLE leaf_blocks (
  first_leaf INTEGER PRIMARY KEY,
  leaf_count INTEGER NOT NULL,
  tree_root  BLOB NOT NULL,
  leaves     BLOB NOT NULL
) STRICT;
CREATE TABLE tree_nodes (
  ledger_no  INTEGER NOT NULL,
  tile_level INTEGER NOT NULL,
  node_index INTEGER NOT NULL,
  node_hash  BLOB NOT NULL,
  PRIMARY KEY (ledger_no, tile_level, node_index)
) STRICT, WITHOUT ROWID;
CREATE TABLE bodies (
  leaf INTEGER PRIMARY KEY,
  salt BLOB NOT NULL,
  body BLOB NOT NULL
) STRICT;
CREATE TABLE checkpoints (
  ledger_no INTEGER NOT NULL,
  tree_size INTEGER NOT NULL,
  note      TEXT NOT NULL,
  PRIMARY KEY (ledger_no, tree_size)
) STRICT, WITHOUT ROWID;
CREATE TABLE dictionaries (
  version INTEGER PRIMARY KEY,
  bytes   BLOB NOT NULL
) STRICT;
CREATE TRIGGER ledgers_no_update BEFORE UPDATE ON ledgers BEGIN SELECT RAISE(ABORT, 'ledgers are never changed'); END;
CREATE TRIGGER ledgers_no_delete BEFORE DELETE ON ledgers BEGIN SELECT RAISE(ABORT, 'ledgers are never deleted'); END;
CREATE TRIGGER leaf_blocks_no_update BEFORE UPDATE ON leaf_blocks BEGIN SELECT RAISE(ABORT, 'leaves are never changed'); END;
CREATE TRIGGER leaf_blocks_no_delete BEFORE DELETE ON leaf_blocks BEGIN SELECT RAISE(ABORT, 'leaves are never deleted'); END;
CREATE TRIGGER tree_nodes_no_update BEFORE UPDATE ON tree_nodes BEGIN SELECT RAISE(ABORT, 'nodes are never changed'); END;
CREATE TRIGGER tree_nodes_no_delete BEFORE DELETE ON tree_nodes BEGIN SELECT RAISE(ABORT, 'nodes are never deleted'); END;
CREATE TRIGGER bodies_no_update BEFORE UPDATE ON bodies BEGIN SELECT RAISE(ABORT, 'bodies are never changed'); END;
CREATE TRIGGER checkpoints_no_update BEFORE UPDATE ON checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints are never changed'); END;
CREATE TRIGGER checkpoints_no_delete BEFORE DELETE ON checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints are never deleted'); END;
CREATE TRIGGER dictionaries_no_update BEFORE UPDATE ON dictionaries BEGIN SELECT RAISE(ABORT, 'dictionaries are never changed'); END;
CREATE TRIGGER dictionaries_no_delete BEFORE DELETE ON dictionaries BEGIN SELECT RAISE(ABORT, 'dictionaries are never deleted'); END;
CREATE TABLE tenants (
  tenant_no INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL UNIQUE,
  leaf      INTEGER NOT NULL
) STRICT;
CREATE TABLE runs (
  run                INTEGER PRIMARY KEY,
  tenant_no          INTEGER NOT NULL,
  run_id             TEXT NOT NULL,
  started_leaf       INTEGER NOT NULL,
  trace_id           TEXT NOT NULL,
  correlation_id     TEXT,
  agent_id           TEXT,
  parent_run_id      TEXT,
  source             TEXT NOT NULL,
  is_synthetic       INTEGER NOT NULL,
  seed               INTEGER NOT NULL,
  plan_hash          TEXT NOT NULL,
  otlp               INTEGER NOT NULL,
  started_at         INTEGER NOT NULL,
  created_at         INTEGER NOT NULL,
  status             TEXT NOT NULL,
  execution_status   TEXT NOT NULL,
  completed_at       INTEGER,
  provider           TEXT,
  model              TEXT,
  input_tokens       INTEGER NOT NULL,
  output_tokens      INTEGER NOT NULL,
  cost_nano_cents    INTEGER NOT NULL,
  total_steps        INTEGER NOT NULL,
  success_count      INTEGER NOT NULL,
  failure_count      INTEGER NOT NULL,
  duration_micros    INTEGER NOT NULL,
  root_hash          BLOB,
  late_count         INTEGER NOT NULL,
  record_count       INTEGER NOT NULL,
  last_recorded_at   INTEGER NOT NULL,
  first_inference_at INTEGER,
  declared           INTEGER NOT NULL,
  settled            INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX runs_by_id ON runs (tenant_no, run_id);
CREATE INDEX runs_by_status ON runs (tenant_no, status, created_at);
CREATE INDEX runs_by_agent ON runs (tenant_no, agent_id, created_at) WHERE agent_id IS NOT NULL;
CREATE INDEX runs_by_root_hash ON runs (tenant_no, root_hash, created_at) WHERE root_hash IS NOT NULL;
CREATE INDEX runs_by_plan_hash ON runs (tenant_no, plan_hash, created_at)
  WHERE plan_hash <> '4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945';
CREATE INDEX runs_by_seed ON runs (tenant_no, seed, created_at) WHERE seed <> 42;
CREATE INDEX runs_synthetic ON runs (tenant_no, created_at) WHERE is_synthetic = 1;
CREATE TABLE run_records (
  run         INTEGER NOT NULL,
  run_seq     INTEGER NOT NULL,
  leaf        INTEGER NOT NULL,
  kind        INTEGER NOT NULL,
  identity    BLOB,
  step_index  INTEGER,
  occurred_at INTEGER NOT NULL,
  PRIMARY KEY (run, run_seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX run_records_by_identity ON run_records (run, identity) WHERE identity IS NOT NULL;
CREATE TABLE traces (
  tenant_no INTEGER NOT NULL,
  trace_id  ANY NOT NULL,
  run       INTEGER NOT NULL,
  PRIMARY KEY (tenant_no, trace_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE facets (
  tenant_no INTEGER NOT NULL,
  facet     TEXT NOT NULL,
  leaf      INTEGER NOT NULL,
  n         INTEGER NOT NULL,
  PRIMARY KEY (tenant_no, facet, leaf)
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_by_created ON runs (tenant_no, created_at, run, is_synthetic);
CREATE INDEX runs_by_provider ON runs (tenant_no, provider, created_at, run, execution_status, is_synthetic);
CREATE INDEX runs_by_model ON runs (tenant_no, model, created_at, run, execution_status, provider, is_synthetic);
CREATE INDEX runs_by_execution_status ON runs (tenant_no, execution_status, created_at, run, is_synthetic);
CREATE INDEX runs_unsettled ON runs (status, created_at) WHERE settled = 0;
CREATE TABLE pruned (
  first_leaf INTEGER PRIMARY KEY,
  last_leaf  INTEGER NOT NULL,
  by_leaf    INTEGER NOT NULL
) STRICT;
CREATE TRIGGER bodies_no_delete BEFORE DELETE ON bodies
WHEN NOT EXISTS (
  SELECT 1 FROM facets
  WHERE tenant_no = (SELECT tenant_no FROM ledgers WHERE ledger_no = OLD.leaf >> 40)
    AND facet = 'erased' AND leaf = OLD.leaf
) AND OLD.leaf > ifnull((SELECT last_leaf FROM pruned WHERE first_leaf <= OLD.leaf ORDER BY first_leaf DESC LIMIT 1), -1)
BEGIN SELECT RAISE(ABORT, 'bodies are never deleted without a record that says so'); END;
CREATE INDEX traces_by_run ON traces (run);
CREATE INDEX run_records_environment ON run_records (run, run_seq) WHERE kind = 6;
