-- 200_object_lock.sql: what a store with Object Lock was found to enforce, and how far its locks were extended.
-- A store is named as Vault.describe does, without credentials; another store begins with no rows.

-- A row is what the newest attempt to break the locks of one store showed.
create table lock_proof (
  place     text        primary key,
  locking   text        not null,  -- as VAULT_LOCK has it: compliance:90d
  proved_at timestamptz not null,
  failed    text[]      not null,  -- what the store let happen; empty: it enforces Object Lock
  hazards   text[]      not null   -- settings of the store that would undo it, with what to do
);

-- A row is how far the locks of the objects whose keys begin so were extended in one store.
create table lock_pass (
  place        text        not null,
  prefix       text        not null,  -- '<repo id>/', or that of objects which belong to no repo
  looked_at    timestamptz,           -- when hidden and overwritten objects were last looked for; null: never
  locked_until timestamptz,           -- every object that is kept is locked until then at least; null: not yet
  goal         timestamptz,           -- the same once the pass under way is through; null: none is
  reached      text,                  -- the last key of the pass under way; null: none
  primary key (place, prefix),
  check (goal is not null or reached is null)
);
