-- 101_alarms.sql: what people were told of lasting states, what happened that they may be told of, and how sendings wait.

-- A row is a lasting state of a team or of the installation, as people last heard of it: a cause of troubled(), a limit that is
-- reached, a vault that is away. Each look compares it with what is so now (mirror/core/rules/alarms.py); it goes when it is over,
-- told and quiet.
create table alarm (
  key            text          primary key,        -- the team's id, or `everref`, then a slash and the cause
  team_id        uuid          references team on delete cascade,  -- null: of the installation
  cause          text          not null,           -- as troubled() names it, or over; vault, disk:MACHINE, worker, unknown
  is_on          boolean       not null,           -- as it was at the last look
  turned_at      timestamptz   not null,           -- the look that first saw it so
  since          timestamptz   not null,           -- on: since when, as its repos say; off: since when it had been on
  told_on        boolean       not null,           -- as people know it
  told_at        timestamptz,                      -- when they last heard of it; null: never
  told_many      int           not null default 0, -- repos, as they know
  title          text          not null,           -- what it was called when it was told, for its end
  flips          timestamptz[] not null default '{}',  -- when it began or ended within the last hour
  flapping_since timestamptz                       -- null: it is told as it comes and goes
);
create index alarm_of_team on alarm (team_id) where team_id is not null;

-- The one row says when somebody last looked. Who looks locks it, so that nobody else does.
create table telling (
  the_one   boolean     primary key default true check (the_one),
  looked_at timestamptz                                       -- null: never
);
insert into telling default values;

-- A row is something that happened and was not looked at yet. It goes in the transaction that writes what is said of it, so that
-- nothing is told twice and nothing is lost. Triggers write it with what happened, in the same transaction.
create table event (
  id      bigint primary key generated always as identity,
  kind    text   not null check (kind in ('notice', 'begun', 'ended', 'restored', 'member', 'refs')),
  team_id uuid   references team on delete cascade,  -- null: the repo's
  repo_id uuid   references repo on delete cascade,  -- null: it is about no repo
  number  bigint,                                    -- notice: its id; restored: the restore's; member: the audit entry; refs: the snapshot
  job_id  uuid   references job on delete cascade    -- begun, ended: the restore's job
);
create unique index event_of_refs on event (repo_id, number) where kind = 'refs';

create function notice_happened() returns trigger language plpgsql as $$
begin
  insert into event (kind, team_id, repo_id, number) values ('notice', new.team_id, new.repo_id, new.id);
  return null;
end $$;
-- The alarms tell the others.
create trigger notice_happened after insert on notice for each row
  when (new.seen_at is null and new.kind not in ('failing', 'recovered', 'archived', 'connection', 'over-limit', 'outage', 'channel', 'moved'))
  execute function notice_happened();

create function restore_happened() returns trigger language plpgsql as $$
begin
  insert into event (kind, team_id, repo_id, job_id)
  values (case when tg_op = 'INSERT' then 'begun' else 'ended' end, new.team_id, new.repo_id, new.id);
  return null;
end $$;
create trigger restore_begun after insert on job for each row
  when (new.kind = 'restore' and new.state in ('queued', 'running')) execute function restore_happened();
create trigger restore_ended after update of state on job for each row
  when (new.kind = 'restore' and old.finished_at is null and new.finished_at is not null) execute function restore_happened();

create function restored_by_hand() returns trigger language plpgsql as $$
begin
  insert into event (kind, repo_id, number) values ('restored', new.repo_id, new.id);
  return null;
end $$;
create trigger restored_by_hand after insert on restore for each row when (new.job_id is null) execute function restored_by_hand();

create function member_happened() returns trigger language plpgsql as $$
begin
  insert into event (kind, team_id, number) values ('member', new.team_id, new.number);
  return null;
end $$;
create trigger member_happened after insert on audit for each row
  when (new.result = 'done' and new.action in ('member.add', 'member.role', 'member.remove', 'member.leave'))
  execute function member_happened();

-- A first snapshot of 100,000 refs forces none of them: the condition is all that it costs.
create function refs_happened() returns trigger language plpgsql as $$
begin
  insert into event (kind, repo_id, number) values ('refs', new.repo_id, new.snapshot) on conflict do nothing;
  return null;
end $$;
create trigger refs_happened after insert on ref_change for each row
  when (new.old is not null and new.kind in ('forced', 'deleted', 'moved')) execute function refs_happened();

alter table team
  add column guarded_refs text[];  -- globs of refs whose force-pushes and deletions are told; null: the default branch, and tags

-- How sendings go: one at a time at each channel, and a channel that does not answer is asked less and less often.
alter table channel
  add column sending_until timestamptz,            -- somebody sends there; null, or past: nobody does
  add column troubled_since timestamptz,           -- since when nothing arrives; null: what was last sent arrived
  add column tries         int not null default 0, -- in a row that failed
  add column retry_at      timestamptz;            -- not to be tried before; null: at once
alter table sending
  add column first_at  timestamptz,                          -- when it was first to be sent; null: an earlier version wrote it
  add column is_held   boolean not null default false,       -- it waited for its turn or for a morning: it can be part of a digest
  add column digest_id uuid references message on delete cascade;  -- the digest that it is part of; null: it goes by itself
create index sending_of_digest on sending (digest_id, channel_id) where digest_id is not null;
create index message_by_time on message (at);
