-- 235_imports.sql: repos that were imported from another installation (everref import).
-- A row is one repo of which a directory is, or was, read. While it has no end, what its history has here is what a
-- run that was killed had come to; the same run again takes over epochs, which a later import does not.
create table repo_import (
  repo_id  uuid        primary key references repo on delete cascade,
  began_at timestamptz not null,
  ended_at timestamptz  -- null: it is under way, or was interrupted
);
