-- Stretches of leaves whose bodies were archived and pruned, by the leaf of the record that says so.
CREATE TABLE pruned (
  first_leaf INTEGER PRIMARY KEY,
  last_leaf  INTEGER NOT NULL,
  by_leaf    INTEGER NOT NULL
) STRICT;

-- A body goes when its leaf is in the list `erased` or in one of these stretches; in no other way.
DROP TRIGGER bodies_no_delete;
CREATE TRIGGER bodies_no_delete BEFORE DELETE ON bodies
WHEN NOT EXISTS (
  SELECT 1 FROM facets
  WHERE tenant_no = (SELECT tenant_no FROM ledgers WHERE ledger_no = OLD.leaf >> 40)
    AND facet = 'erased' AND leaf = OLD.leaf
) AND OLD.leaf > ifnull((SELECT last_leaf FROM pruned WHERE first_leaf <= OLD.leaf ORDER BY first_leaf DESC LIMIT 1), -1)
BEGIN SELECT RAISE(ABORT, 'bodies are never deleted without a record that says so'); END;
