-- 075_bodies_kept.sql: so many bytes of deliveries are kept of one team, and no more.

-- How much of the bodies that came by this hook is kept. A delivery adds to it; forgetting old ones counts it anew.
alter table hook add column kept_bytes count_of not null default 0;

update hook set kept_bytes = found.bytes
from (select hook_id, sum(octet_length(body)) as bytes from delivery group by hook_id) found where found.hook_id = hook.id;
