-- 256_rollbacks.sql: what an account pushed to all repos of a team, and putting it back by one plan.

-- A rollback removes refs too, so that what it wrote can be nothing.
alter table restored_ref alter column new drop not null;  -- null: the ref was removed
alter table restored_ref add check (num_nulls(old, new) < 2);

-- The moves of one account, whatever the case of its name, in a repo.
create index ref_change_by on ref_change (repo_id, lower(pushed_by), snapshot) where pushed_by is not null;

-- A row is a plan to put refs of several repos back to just before somebody moved them. It is begun within an hour, or never;
-- then each repo has a job (asked->>'rollback'), and another one where it is run again or undone.
create table rollback (
  id         uuid        primary key,
  team_id    uuid        not null references team on delete cascade,
  person_id  uuid        references person on delete set null,  -- who planned it; null: whoever runs Everref
  asked      jsonb       not null,   -- the window, and what it was narrowed to
  planned_at timestamptz not null,
  begun_at   timestamptz             -- null: nothing was done
);
create index rollback_of_team on rollback (team_id, planned_at);
create index job_of_rollback on job ((asked->>'rollback')) where asked ? 'rollback';

-- A row is a repo of such a plan.
create table rollback_repo (
  rollback_id uuid            not null references rollback on delete cascade,
  repo_id     uuid            not null references repo on delete cascade,
  snapshot    snapshot_number not null,  -- the last kept one before the first of these moves
  problem     text,                      -- its host could not be asked, or its job not be queued; null: neither
  primary key (rollback_id, repo_id)
);

-- A row is a ref of it, with what the plan saw there: its job touches the ref only while it holds exactly that.
create table rollback_ref (
  rollback_id uuid     not null,
  place       int      not null check (place > 0),  -- among all refs of the plan
  repo_id     uuid     not null,
  name        ref_name not null,
  expected    ref_target,                -- null: there was no such ref
  target      ref_target,                -- what it held just before; null: it did not exist, and is removed
  state       text     not null check (state in ('ready', 'moved', 'back', 'dropped', 'fixed')),
  why         text     not null,         -- why it is not simply ready; empty: it is
  chosen      boolean  not null,         -- it is part of what is done
  primary key (rollback_id, place),
  foreign key (rollback_id, repo_id) references rollback_repo on delete cascade,
  check (not chosen or state in ('ready', 'moved'))
);
