-- 056_checkpoints.sql: git packs a checkpoint for minutes or hours; what is pushed meanwhile is saved meanwhile.

-- Besides what is changed at a forge, a row may be the lease on compacting a repo: one run at a time does, without the repo's
-- own lease while git packs.
alter table forge_lease
  drop constraint forge_lease_name_check,
  add constraint forge_lease_name_check check (name ~ '^(hook|tokens|compact)/');

-- Intents with the moment when their run was last heard of: the heartbeats of a compaction keep what it uploads from being
-- taken for abandoned.
create view intent_heard as
  select intent.key, intent.repo_id, intent.owner, greatest(intent.at, forge_lease.beat_at) as at
  from intent left join forge_lease using (owner);

-- As in 038, but a sync need not wait for a compaction of its repo: they take the repo's lease in turn. A compaction waits for a
-- sync that has begun, and for another compaction.
create or replace view startable as
select queue.* from queue
where ready and not has_job
  and (select true from run where run.key = queue.key) is null  -- each a probe: `not exists` would read all of them at times
  and (kind not in ('sync', 'compact') or (
    select true from run where run.repo_id = queue.repo_id and run.kind in ('sync', queue.kind) limit 1
  ) is null and (
    select true from lease
    where lease.repo_id = queue.repo_id and owner is not null and beat_at > clock_timestamp() - interval '30 s'
  ) is null)
  and (job_id is not null or (
    select true from job where job.repo_id = queue.repo_id and job.kind = 'sync' and job.state in ('queued', 'running') limit 1
  ) is null);
