-- 058_vault_identity.sql: which vault this database belongs to, so that an empty directory is never taken for it.

-- At most one row: the identity of the vault, which its vault.json says too. It is proposed before that object is
-- written, so that all who begin at once write the same one, and known once it has been read back.
create table vault_identity (
  only_one boolean     primary key default true check (only_one),
  vault    uuid        not null,
  known_at timestamptz               -- null: proposed, and perhaps not written yet
);
