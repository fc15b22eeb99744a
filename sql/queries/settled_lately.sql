-- settled_lately.sql($1 team_id, $2 since, $3 how many): what somebody settled since then, and what was brought back to the
-- repo that it came from after a force-push; the newest first.
select kind, repo.name as repo, settled.snapshot, subject, person.name as person, at, null::bytea as ref
from settled left join repo on repo.id = repo_id left join person on person.id = person_id
where settled.team_id = $1 and at >= $2
union all
select 'restored', repo.name, back.snapshot, '', person.name, back.finished_at, (
  select min(name) from restored_ref where job_id = back.job_id
)
from repo
join restore back on back.repo_id = repo.id
left join person on person.id = back.person_id
where repo.team_id = $1 and back.finished_at >= $2 and back.verified and is_own(back, repo)
  and exists (
    select from ref_change move
    join ref on ref.id = move.ref_id
    join restored_ref written on written.job_id = back.job_id
      and (written.new = move.old or written.name = ref.name or brings_back(written.name, ref.name))
    where move.repo_id = repo.id and move.snapshot >= back.snapshot and move.kind in ('forced', 'deleted')
      and move.old is not null and move.kind <> 'fast-forwarded' and substring(move.old from 1 for 5) <> 'ref: '::bytea
  )
order by at desc limit $3
