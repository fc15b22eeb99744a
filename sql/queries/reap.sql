-- reap.sql($1 workers): take their runs from workers that are gone; each sync that ended so is counted.
-- Who holds one of these rows is not waited for, as it may be the one that hangs.
with found as (
  select key from run where worker = any($1::text[]) for update skip locked
), gone as (
  delete from run using found where run.key = found.key returning repo_id, kind
), synced as (
  select id from repo where id in (select repo_id from gone where kind = 'sync') for no key update skip locked
), counted as (
  update repo set crashes = crashes + 1 from synced where repo.id = synced.id
)
select from gone
