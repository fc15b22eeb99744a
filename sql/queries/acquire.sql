-- acquire.sql($1 repo_id, $2 owner, $3 time to live): take the turn if nobody has it, or if who has it fell silent.
insert into lease (repo_id, owner, beat_at, fence)
values ($1, $2, clock_timestamp(), nextval('lease_fence'))
on conflict (repo_id) do update
set owner = excluded.owner, beat_at = clock_timestamp(), fence = nextval('lease_fence')
where lease.owner is null or lease.beat_at < clock_timestamp() - $3::interval
returning fence
