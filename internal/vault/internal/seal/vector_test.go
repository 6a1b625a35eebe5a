package seal

const (
	wantID   = "260555a3320863aba6f417b2b337de88cc3efef0c72a5ffdedd0acc66e32f240"
	wantMAC  = "f97bb97ad66fb29973e455f0c3b24eaed1ac9b1d21ded7e9f11a5a635625da9a"
	wantGear = "ca78058f4975c5cf7f074c1693d89f2388d1b62c99e9555022cf332b7ec93c09"
)
