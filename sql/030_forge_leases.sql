-- 030_forge_leases.sql: who may change something at a forge: the hook of a repo, or the tokens of a connection.

-- A row is a lease on one of these: which run has it, when that last said that it is alive, by this database's clock,
-- and the fencing number, without which a run that lost its lease can record nothing. The row goes when the lease is
-- given back. Nobody holds a connection or a lock of the database while the forge is asked.
create table forge_lease (
  name    text        primary key check (name ~ '^(hook|tokens)/'),  -- and the id of the repo or connection
  owner   text        not null,
  beat_at timestamptz not null,
  fence   bigint      not null
);
