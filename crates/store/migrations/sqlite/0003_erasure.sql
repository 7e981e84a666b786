-- A body goes when its leaf is in the list `erased` or `pruned`, which the records that say so make and
-- verification makes again; in no other way.

DROP TRIGGER bodies_no_delete;
CREATE TRIGGER bodies_no_delete BEFORE DELETE ON bodies
WHEN NOT EXISTS (
  SELECT 1 FROM facets
  WHERE tenant_no = (SELECT tenant_no FROM ledgers WHERE ledger_no = OLD.leaf >> 40)
    AND facet IN ('erased', 'pruned') AND leaf = OLD.leaf
)
BEGIN SELECT RAISE(ABORT, 'bodies are never deleted without a record that says so'); END;
