-- 005_leases.sql: whose turn it is: one job at a time per repo.

create sequence lease_fence;

-- A row is the turn at one repo: who has it (null: nobody), when that run last said that it is alive, by this
-- database's clock, and the fencing number. The number grows with every turn, so that a run which lost its turn
-- without noticing cannot record anything.
create table lease (
  repo_id uuid        primary key references repo on delete cascade,
  owner   text,
  beat_at timestamptz not null,
  fence   bigint      not null
);
