-- acquire_at_forge.sql($1 name, $2 owner, $3 time to live): take the lease if nobody has it, or if who has it fell silent.
insert into forge_lease (name, owner, beat_at, fence)
values ($1, $2, clock_timestamp(), nextval('lease_fence'))
on conflict (name) do update
set owner = excluded.owner, beat_at = clock_timestamp(), fence = nextval('lease_fence')
where forge_lease.beat_at < clock_timestamp() - $3::interval
returning fence
